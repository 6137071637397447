"""Writing webdataset shards: tars of images with their annotations, the same bytes every time."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from xraygpt.common.errors import DataError, summarise
from xraygpt.common.files import load_json
from xraygpt.datasets.datasets.annotations import ANNOTATION_FILE
from xraygpt.datasets.datasets.images import IMAGE_FOLDER, LooseImages
from xraygpt.datasets.datasets.shard_index import INDEX_FILE, SHARD_FOLDER, Member, Shard, write_index
from xraygpt.preparation.pipeline.output_folder import new_file

SHARD_BYTES = 256 * 2**20
"""256 MiB: 60 shards for MIMIC-CXR's frontal images at 512 pixels."""
END_OF_ARCHIVE = bytes(2 * tarfile.BLOCKSIZE)


class _Sample(NamedTuple):
    """An image and its annotation, in the bytes they have in a tar."""

    image_id: str
    blocks: bytes
    offset: int
    """Where the image's file begins in `blocks`."""
    image_size: int


def write_shards(folder: Path, shard_bytes: int = SHARD_BYTES) -> list[Shard]:
    """Write ``folder/shards/`` from ``folder/filter_cap.json`` and ``folder/image/``, which are left there.

    A sample is ``<image_id>.jpg`` (or ``.png``) and ``<image_id>.json``, its annotation; samples come in the
    order of the annotations. webdataset takes a name up to its first dot for the sample's key, so a dot in
    an image id becomes ``%2E`` in the names (and ``%`` becomes ``%25``); the JSON has the id itself.

    The index is taken away first and written last, so shards without one are known to be unfinished. To
    write them again gives the same bytes, and shards of an earlier run are replaced.

    Args:
        shard_bytes: no tar gets larger, unless a single sample is.

    Returns:
        What the index holds.

    Raises:
        MissingFileError: there is no annotation file.
        DataError: it is damaged or empty, or images are absent or annotated twice; there is no index then.
    """
    rows = _read_rows(folder / ANNOTATION_FILE)
    if not rows:
        raise DataError(f"{folder / ANNOTATION_FILE}: the list of annotations is empty")
    output = folder / SHARD_FOLDER
    output.mkdir(exist_ok=True)
    (output / INDEX_FILE).unlink(missing_ok=True)
    files = _locate(rows, LooseImages(folder / IMAGE_FOLDER), folder / ANNOTATION_FILE)
    shards: list[Shard] = []
    samples = (_sample(row, file) for row, file in zip(rows, files, strict=True))
    for number, group in itertools.groupby(_numbered(samples, shard_bytes), key=itemgetter(0)):
        shards.append(_write_shard(output / f"shard-{number:06d}.tar", (sample for _, sample in group)))
    for file in set(output.glob("shard-*.tar*")) - {output / shard.name for shard in shards}:
        file.unlink()
    write_index(output, shards)
    return shards


def _read_rows(path: Path) -> list[Any]:
    """Return the rows of an annotation file of the reference's form as they are there (see `_problem_of`).

    Raises:
        MissingFileError: no such file.
        DataError: it is not JSON, or holds no list of annotations.
    """
    content = load_json(path)
    rows = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise DataError(f'{path}: expected an object with a list under the key "annotations"')
    return rows


def _problem_of(row: Any) -> str | None:
    """Return what is wrong with a row of an annotation file, or None."""
    if not isinstance(row, dict):
        return f"expected an object, found {type(row).__name__}"
    for key in ("image_id", "caption"):
        if key not in row:
            return f'the key "{key}" is missing (there are: {", ".join(map(str, row)) or "none"})'
    if not isinstance(row["image_id"], str | int) or row["image_id"] == "":
        return f'"image_id" must be a file stem, not {row["image_id"]!r}'
    if not isinstance(row["caption"], str):
        return f'"caption" must be a text, not {row["caption"]!r}'
    if not isinstance(row.get("study_id", ""), str | int):
        return f'"study_id" must be a name or a number, not {row["study_id"]!r}'
    if not isinstance(row.get("split", ""), str):
        return f'"split" must be a text, not {row["split"]!r}'
    return None


def _locate(rows: Sequence[Any], images: LooseImages, path: Path) -> list[Path]:
    """Return the image file of every row; all problems are found before the first tar is written."""
    files: list[Path] = []
    problems: list[str] = []
    seen: set[str] = set()
    for index, row in enumerate(rows):
        problem = _problem_of(row)
        image_id = "" if problem else str(row["image_id"])
        file = images.find(image_id)
        if problem is None and file is None:
            problem = f"no image {image_id} in {images}"
        elif image_id in seen:
            problem = f"the image {image_id} has an annotation already"
        if problem is not None or file is None:
            problems.append(f"annotations[{index}]: {problem}")
            continue
        seen.add(image_id)
        files.append(file)
    if problems:
        raise DataError(f"{path}: " + summarise("annotations cannot go into shards", problems))
    return files


def _numbered(samples: Iterable[_Sample], shard_bytes: int) -> Iterator[tuple[int, _Sample]]:
    """Put the number of its shard before each sample."""
    number = 0
    size = len(END_OF_ARCHIVE)
    for sample in samples:
        if size > len(END_OF_ARCHIVE) and size + len(sample.blocks) > shard_bytes:
            number += 1
            size = len(END_OF_ARCHIVE)
        size += len(sample.blocks)
        yield number, sample


def _sample(row: Mapping[str, Any], file: Path) -> _Sample:
    image_id = str(row["image_id"])
    key = image_id.replace("%", "%25").replace(".", "%2E")
    image = file.read_bytes()
    header = _header(key + file.suffix, len(image))
    annotation = json.dumps({**row, "image_id": image_id}).encode()
    blocks = header + _filled(image) + _header(f"{key}.json", len(annotation)) + _filled(annotation)
    return _Sample(image_id, blocks, len(header), len(image))


def _header(name: str, size: int) -> bytes:
    """Return the header of a member; it says nothing of when, where and by whom it was written."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _filled(content: bytes) -> bytes:
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)


def _write_shard(path: Path, samples: Iterable[_Sample]) -> Shard:
    """Write one tar; it is there at once or not at all."""
    images: list[Member] = []
    digest = hashlib.sha256()
    with new_file(path, path.parent) as file:
        for sample in samples:
            images.append(Member(sample.image_id, file.tell() + sample.offset, sample.image_size))
            file.write(sample.blocks)
            digest.update(sample.blocks)
        file.write(END_OF_ARCHIVE)
        digest.update(END_OF_ARCHIVE)
        file.flush()
        os.fsync(file.fileno())
    return Shard(path.name, path.stat().st_size, digest.hexdigest(), tuple(images))
