"""Writing webdataset shards: tars of images with their annotations, the same bytes every time."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError, summarise
from xraygpt.common.files import load_json
from xraygpt.datasets.datasets.annotations import ANNOTATION_FILE, scan_annotations
from xraygpt.datasets.datasets.images import IMAGE_FOLDER, LooseImages
from xraygpt.datasets.datasets.shard_index import INDEX_FILE, SHARD_FOLDER, Member, Shard, write_index
from xraygpt.preparation.pipeline.output_folder import new_file

SHARD_BYTES = 256 * 2**20
"""256 MiB: 60 shards for MIMIC-CXR's frontal images at 512 pixels."""
END_OF_ARCHIVE = bytes(2 * tarfile.BLOCKSIZE)


_Sample = tuple[Member, bytes]
"""Where an image's file lies in the bytes that it and its annotation have in a tar, and those bytes."""


def write_shards(folder: Path, shard_bytes: int = SHARD_BYTES) -> list[Shard]:
    """Write ``folder/shards/`` from ``folder/filter_cap.json`` and ``folder/image/``, which are left there.

    A sample is ``<image_id>.jpg`` (or ``.png``) and ``<image_id>.json``, its annotation; samples come in the
    order of the annotations. webdataset takes a name up to its first dot for the sample's key, so a dot in
    an image id becomes ``%2E`` in the names (and ``%`` becomes ``%25``); the JSON has the id itself. No tar
    gets larger than `shard_bytes`, unless a single sample is.

    The index is taken away first and written last, so shards without one are known to be unfinished. To
    write them again gives the same bytes, and shards of an earlier run are replaced.

    Raises:
        MissingFileError: there is no annotation file.
        DataError: it is damaged or empty, or images are absent or annotated twice; there is no index then.
    """
    output = folder / SHARD_FOLDER
    output.mkdir(exist_ok=True)
    (output / INDEX_FILE).unlink(missing_ok=True)
    samples = (_sample(row, file) for row, file in _located(folder))
    shards: list[Shard] = []
    for number, group in itertools.groupby(_numbered(samples, shard_bytes), key=itemgetter(0)):
        shards.append(_write_shard(output / f"shard-{number:06d}.tar", (sample for _, sample in group)))
    for file in set(output.glob("shard-*.tar*")) - {output / shard.name for shard in shards}:
        file.unlink()
    write_index(output, shards)
    return shards


def _located(folder: Path) -> list[tuple[dict[str, Any], Path]]:
    """Return every annotation with its image's file; all problems are found before a tar is written."""
    path = folder / ANNOTATION_FILE
    annotations, problems = scan_annotations(path)
    if not annotations and not problems:
        raise DataError(f"{path}: the list of annotations is empty")
    images, files = LooseImages(folder / IMAGE_FOLDER), {}
    for row in annotations:
        file = images.find(row.image_id)
        if file is None:
            problems.append(f"{row.place}: no image {row.image_id} in {images}")
        elif row.image_id in files:
            problems.append(f"{row.place}: the image {row.image_id} has an annotation already")
        else:
            files[row.image_id] = file
    if problems:
        raise DataError(summarise("annotations cannot go into shards", problems))
    return list(zip(load_json(path)["annotations"], files.values(), strict=True))


def _numbered(samples: Iterable[_Sample], shard_bytes: int) -> Iterator[tuple[int, _Sample]]:
    """Put the number of its shard before each sample."""
    number, size = 0, len(END_OF_ARCHIVE)
    for member, blocks in samples:
        if size > len(END_OF_ARCHIVE) and size + len(blocks) > shard_bytes:
            number, size = number + 1, len(END_OF_ARCHIVE)
        size += len(blocks)
        yield number, (member, blocks)


def _sample(row: dict[str, Any], file: Path) -> _Sample:
    image_id = str(row["image_id"])
    key = image_id.replace("%", "%25").replace(".", "%2E")
    image = file.read_bytes()
    annotation = json.dumps({**row, "image_id": image_id}).encode()
    header = _header(key + file.suffix, len(image))
    blocks = header + _filled(image) + _header(f"{key}.json", len(annotation)) + _filled(annotation)
    return Member(image_id, len(header), len(image)), blocks


def _header(name: str, size: int) -> bytes:
    """Return the header of a member; it says nothing of when, where and by whom it was written."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _filled(content: bytes) -> bytes:
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)


def _write_shard(path: Path, samples: Iterable[_Sample]) -> Shard:
    """Write one tar; it is there at once or not at all."""
    images: list[Member] = []
    digest = hashlib.sha256()
    with new_file(path, path.parent) as file:
        for member, blocks in samples:
            images.append(member._replace(offset=file.tell() + member.offset))
            file.write(blocks)
            digest.update(blocks)
        file.write(END_OF_ARCHIVE)
        digest.update(END_OF_ARCHIVE)
        file.flush()
        os.fsync(file.fileno())
    return Shard(path.name, path.stat().st_size, digest.hexdigest(), tuple(images))
