"""Images in shards, and the choice between shards and loose files."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.datasets.datasets.annotations import IMAGE_FOLDER, summarise
from xraygpt.datasets.datasets.images import IMAGE_SUFFIXES, ImageStore, LooseImages, read_image
from xraygpt.datasets.datasets.shard_index import SHARD_FOLDER, Shard, file_problems, has_index, read_index

MAX_OPEN = 128
"""Shards that a process keeps open."""


class ShardedImages:
    """The images of a folder of shards, read from the tars by their place in the index.

    Tars are opened when they are first read from, in each process for itself, and read by `os.pread`, which
    neither uses nor moves the file position that forked processes and threads share.

    Raises:
        MissingFileError: the folder has no index.
        DataError: the index is damaged, or tars are absent or of another size than the index says.
    """

    def __init__(self, folder: Path) -> None:
        shards = read_index(folder)
        if problems := file_problems(folder, shards):
            raise DataError(f"{folder}: " + summarise("damaged shards (prepare them again)", problems))
        self.folder = folder
        self._names = [shard.name for shard in shards]
        self._rows = {
            image_id: row
            for row, image_id in enumerate(member.image_id for shard in shards for member in shard.images)
        }
        # Arrays: of 377,110 images, tuples of Python numbers would take 80 MB, in every spawned process.
        self._shard_of = np.repeat(np.arange(len(shards)), [len(shard.images) for shard in shards])
        self._spans = _spans(shards)  # (N, 2): offset, size
        self._open = _opener()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = _opener()

    def __str__(self) -> str:
        return f"{self.folder} (shards)"

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._rows

    def image_ids(self) -> list[str]:
        """Return the ids of all images, in the order of the shards."""
        return list(self._rows)

    def place(self, image_id: str) -> str:
        """Return the tar and the image's name."""
        return f"{self._tar(self._row(image_id))}: {image_id}"

    def read(self, image_id: str, decode_size: int | None = None) -> Image.Image:
        """Decode an image (see `read_image`).

        Raises:
            DataError: there is no such image, or it cannot be read.
        """
        row = self._row(image_id)
        offset, size = self._spans[row].tolist()
        place = self.place(image_id)
        try:
            data = os.pread(self._open(self._tar(row)).descriptor, size, offset)
        except OSError as error:
            raise DataError(f"{place}: cannot be read ({error})") from error
        return read_image(data, decode_size, place)

    def _row(self, image_id: str) -> int:
        row = self._rows.get(image_id)
        if row is None:
            raise DataError(f"{self}: there is no image '{image_id}'")
        return row

    def _tar(self, row: int) -> Path:
        return self.folder / self._names[self._shard_of[row]]


class _OpenFile:
    """A file that is closed when nobody uses it any more."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        # Absent where opening failed.
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def _opener() -> functools._lru_cache_wrapper[_OpenFile]:
    return functools.lru_cache(MAX_OPEN)(_OpenFile)


def _spans(shards: Sequence[Shard]) -> np.ndarray:
    spans = [(member.offset, member.size) for shard in shards for member in shard.images]
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


def open_folder(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> ImageStore:
    """Return the images of a folder of shards (it has their index) or of image files.

    Raises:
        DataError, MissingFileError: no such folder, or damaged shards.
    """
    return ShardedImages(folder) if has_index(folder) else LooseImages(folder, suffixes)


def open_storage(storage: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> ImageStore:
    """Return the images of a prepared folder: ``image/``, or where there is none ``shards/``.

    Where there are both, ``image/`` counts: it is what a user can look into and correct.

    Raises:
        DataError, MissingFileError: neither is there, or damaged shards.
    """
    images, shards = storage / IMAGE_FOLDER, storage / SHARD_FOLDER
    if images.is_dir():
        return LooseImages(images, suffixes)
    if shards.is_dir():
        return ShardedImages(shards)
    raise DataError(
        f"{storage}: no images; they belong there as {IMAGE_FOLDER}/<image_id>{suffixes[0]}, or as tars and "
        f"their index in {SHARD_FOLDER}/; data_type: text needs none"
    )
