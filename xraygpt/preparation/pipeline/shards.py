"""Writing webdataset shards: tars of images with their annotations, the same bytes every time."""

from __future__ import annotations

import itertools
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError, summarise
from xraygpt.common.files import file_sha256, load_json
from xraygpt.common.tables import SPLITS
from xraygpt.datasets.datasets.annotations import ANNOTATION_FILE, scan_annotations
from xraygpt.datasets.datasets.images import IMAGE_FOLDER, LooseImages
from xraygpt.datasets.datasets.shard_index import INDEX_FILE, SHARD_FOLDER, Member, Shard, write_index
from xraygpt.preparation.pipeline.output_folder import new_file

SHARD_BYTES = 256 * 2**20
"""256 MiB: 60 shards for MIMIC-CXR's frontal images at 512 pixels."""


@dataclass(frozen=True)
class _Sample:
    """An image and its annotation, not read yet."""

    row: dict[str, Any]
    split: str
    file: Path

    @property
    def image_id(self) -> str:
        return str(self.row["image_id"])

    @property
    def key(self) -> str:
        """Its name in the tar: webdataset takes a name up to its first dot for the key."""
        return self.image_id.replace("%", "%25").replace(".", "%2E")

    def annotation(self) -> bytes:
        return json.dumps({**self.row, "image_id": self.image_id}).encode()

    def size(self) -> int:
        """Return the bytes that it takes in a tar."""
        image, annotation = self.file.stat().st_size, len(self.annotation())
        names = self.key + self.file.suffix, self.key + ".json"
        headers = sum(len(tarfile.TarInfo(name).tobuf(tarfile.PAX_FORMAT)) for name in names)
        return headers + _up_to(tarfile.BLOCKSIZE, image) + _up_to(tarfile.BLOCKSIZE, annotation)


def write_shards(folder: Path, shard_bytes: int = SHARD_BYTES) -> list[Shard]:
    """Write ``folder/shards/`` from ``folder/filter_cap.json`` and ``folder/image/``, which are left there.

    A tar has samples of one split, which its name begins with: ``train-000000.tar``. A sample is
    ``<image_id>.jpg`` (or ``.png``) and ``<image_id>.json``, its annotation; samples of a split come in the
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
    samples = sorted(_located(folder), key=lambda sample: SPLITS.index(sample.split))
    shards = [
        _write_shard(output / name, [sample for _, sample in group])
        for name, group in itertools.groupby(_named(samples, shard_bytes), key=lambda pair: pair[0])
    ]
    for file in set(output.glob("*.tar*")) - {output / shard.name for shard in shards}:
        file.unlink()
    write_index(output, shards)
    return shards


def _located(folder: Path) -> list[_Sample]:
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
        elif row.split not in SPLITS:
            problems.append(f"{row.place}: the split '{row.split}' is none of {', '.join(SPLITS)}")
        else:
            files[row.image_id] = file
    if problems:
        raise DataError(summarise("annotations cannot go into shards", problems))
    raw = load_json(path)["annotations"]
    splits = [row.split for row in annotations]
    return [_Sample(*each) for each in zip(raw, splits, files.values(), strict=True)]


def _named(samples: Iterable[_Sample], shard_bytes: int) -> Iterator[tuple[str, _Sample]]:
    """Put the name of its shard before each sample."""
    end = 2 * tarfile.BLOCKSIZE
    split, number, filled = "", 0, 0
    for sample in samples:
        size = sample.size()
        if sample.split != split:
            split, number, filled = sample.split, 0, 0
        elif _up_to(tarfile.RECORDSIZE, filled + size + end) > shard_bytes:
            number, filled = number + 1, 0
        filled += size
        yield f"{split}-{number:06d}.tar", sample


def _write_shard(path: Path, samples: Iterable[_Sample]) -> Shard:
    """Write one tar, which is there at once or not at all and says nothing of when and by whom."""
    from webdataset import TarWriter  # imports torch, which the other steps of a preparation do without

    images: list[Member] = []
    with new_file(path, path.parent) as file:
        options = {"user": "", "group": "", "mode": 0o644, "mtime": 0, "format": "PAX_FORMAT"}
        with TarWriter(file, encoder=False, **options) as writer:
            for sample in samples:
                image = sample.file.read_bytes()
                # Two calls: one would put the members into the order of their suffixes.
                writer.write({"__key__": sample.key, sample.file.suffix[1:]: image})
                begins = writer.tarstream.offset - _up_to(tarfile.BLOCKSIZE, len(image))
                writer.write({"__key__": sample.key, "json": sample.annotation()})
                images.append(Member(sample.image_id, begins, len(image)))
        file.flush()
        os.fsync(file.fileno())
    return Shard(path.name, path.stat().st_size, file_sha256(path), tuple(images))


def _up_to(unit: int, size: int) -> int:
    """Return the bytes that `size` bytes take where all is filled up to a multiple of `unit`."""
    return -(-size // unit) * unit
