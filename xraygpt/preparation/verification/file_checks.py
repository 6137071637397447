"""Checks of single files, run in other processes: checksums, decoding, the content of shards."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple
from urllib.parse import unquote

from xraygpt.common.errors import DataError
from xraygpt.common.files import file_sha256
from xraygpt.datasets.datasets.shard_index import Shard
from xraygpt.pictures.reading import read_image

# A JPEG is read to its end at an eighth of its size too, in half the time.
DECODE_SIZE = 1

Found = tuple[str, str]
"""(what is wrong, with which file)."""


class FileToCheck(NamedTuple):
    """A file and what to do with it."""

    path: Path
    digest: str
    """Its SHA-256 as hexadecimal digits; "" if that is not known."""
    is_image: bool
    """It is to be decoded."""


def check_some_files(files: Sequence[FileToCheck]) -> list[Found]:
    """Return what is wrong with some files."""
    return [found for file in files for found in _check_file(file)]


def check_some_shards(shards: Sequence[Shard], folder: Path, decode: bool) -> list[Found]:
    """Return what is wrong with tars that have the size that the index says; others are passed over."""
    return [found for shard in shards for found in _check_shard(folder / shard.name, shard, decode)]


def _check_file(file: FileToCheck) -> Iterator[Found]:
    try:
        if file.digest and file_sha256(file.path) != file.digest:
            yield "files that differ from their checksum", str(file.path)
    except OSError as error:
        yield "files that cannot be read", f"{file.path} ({error.strerror})"
        return
    if file.is_image:
        try:
            read_image(file.path, DECODE_SIZE)
        except DataError as error:
            yield "images that cannot be decoded", str(error)


def _check_shard(path: Path, shard: Shard, decode: bool) -> Iterator[Found]:
    try:
        if path.stat().st_size != shard.bytes:
            return
        if file_sha256(path) != shard.sha256:
            yield "shards that differ from the checksum in the index", str(path)
        with path.open("rb") as file:
            yield from _check_members(path, file, shard)
            if decode:
                yield from _check_images(path, file, shard)
    except FileNotFoundError:
        return
    except OSError as error:
        yield "files that cannot be read", f"{path} ({error.strerror})"


def _check_members(path: Path, file: BinaryIO, shard: Shard) -> Iterator[Found]:
    """Compare the members of a tar with the index."""
    images: dict[str, tuple[int, int]] = {}
    annotations: set[str] = set()
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                image_id = unquote(str(name.with_suffix("")))
                if name.suffix == ".json":
                    annotations.add(image_id)
                else:
                    images[image_id] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        yield "shards that are no tars", f"{path} ({error})"
        return
    indexed = {member.image_id: (member.offset, member.size) for member in shard.images}
    for image_id in sorted(images.keys() | indexed.keys()):
        if images.get(image_id) != indexed.get(image_id):
            yield "images that lie elsewhere in the shard than the index says", f"{path}: {image_id}"
    for image_id in sorted(images.keys() ^ annotations):
        yield "images without annotation in the shard, or the reverse", f"{path}: {image_id}"


def _check_images(path: Path, file: BinaryIO, shard: Shard) -> Iterator[Found]:
    for member in shard.images:
        file.seek(member.offset)
        try:
            read_image(file.read(member.size), DECODE_SIZE, f"{path}: {member.image_id}")
        except DataError as error:
            yield "images that cannot be decoded", str(error)
