"""Render a split once and keep it: phantoms cost milliseconds each, an epoch reads them all."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from xraygpt.common.dist_utils import barrier, is_main_process
from xraygpt.common.logger import progress
from xraygpt.common.paths import cache_root
from xraygpt.common.run_record import writing
from xraygpt.datasets.phantom.render import render_phantom

CHUNK = 250
SOURCE_FOLDER = Path(__file__).parent
TEXT_SOURCES = ("__init__.py", "report.py")
"""Source files that have no say in the images."""


def cache_folder() -> Path:
    """Where rendered phantoms are kept: ``$XRAYGPT_CACHE``, or ``~/.cache/xraygpt``."""
    return cache_root() / "phantoms"


def rendered_split(seed: int, count: int, size: int, folder: Path | None = None) -> np.ndarray:
    """The images of a split, rendered on all cores unless they already lie in the cache.

    Of several training processes the main one renders while the others wait, so all have to call this.

    Returns:
        Read-only uint8 array (count, size, size), mapped from the file.
    """
    folder = folder or cache_folder()
    path = folder / f"{renderer_hash()}-size{size}-seed{seed}-n{count}.npy"
    if is_main_process() and not path.exists():
        _save(path, _render_all(seed, count, size))
    barrier()
    if not path.exists():  # this process runs on another machine than the main one
        _save(path, _render_all(seed, count, size))
    images: np.ndarray = np.load(path, mmap_mode="r")
    return images


def _save(path: Path, images: np.ndarray) -> None:
    """Write a file that others may look for at the same time: it is there at once or not at all."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                # np.save would report a full disk without the reason.
                header = np.lib.format.header_data_from_array_1_0(images)
                np.lib.format.write_array_header_1_0(file, header)
                file.write(images.data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _render_all(seed: int, count: int, size: int) -> np.ndarray:
    work = partial(render_phantom, seed, size=size)
    description = f"rendering {count} phantoms"
    workers = min(len(os.sched_getaffinity(0)), -(-count // CHUNK))
    if workers == 1:
        return np.stack(list(progress(map(work, range(count)), count, description)))
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        rendered = pool.map(work, range(count), chunksize=CHUNK)
        return np.stack(list(progress(rendered, count, description)))


def renderer_hash() -> str:
    """Hash of the renderer's source, so that an edited renderer never meets stale images."""
    sources = sorted(path for path in SOURCE_FOLDER.glob("*.py") if path.name not in TEXT_SOURCES)
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
