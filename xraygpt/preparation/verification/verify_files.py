"""Are the images and other files of a prepared folder there, readable and unchanged?"""

from __future__ import annotations

import functools
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, TypeVar
from urllib.parse import unquote

from tqdm import tqdm

from xraygpt.common.errors import DataError, XrayGPTError
from xraygpt.common.files import file_sha256
from xraygpt.datasets.datasets.annotations import ANNOTATION_FILE, Annotation
from xraygpt.datasets.datasets.images import IMAGE_FOLDER, LooseImages
from xraygpt.datasets.datasets.shard_index import INDEX_FILE, SHARD_FOLDER, Shard, file_problems, read_index
from xraygpt.pictures.reading import IMAGE_SUFFIXES, read_image
from xraygpt.preparation.pipeline.output_folder import CHECKSUM_FILE
from xraygpt.preparation.pipeline.workers import map_chunks
from xraygpt.preparation.record.counts import Places

FILES_AT_ONCE = 64
CHECKSUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")

T = TypeVar("T")
# A JPEG is read to its end at an eighth of its size too, in half the time.
DECODE_SIZE = 1

Found = tuple[str, str]
"""(what is wrong, with which file)."""


@dataclass
class Problem(Places):
    """Things that are wrong in the same way: how many, and the first few of them."""

    what: str = ""


@dataclass
class Verification:
    """What was checked and what is wrong."""

    folder: Path
    checked: list[str] = field(default_factory=list)
    """What was looked at, with numbers."""
    nothing: list[str] = field(default_factory=list)
    """Checks that had nothing to check, with the reason."""
    _found: dict[str, Problem] = field(default_factory=dict)

    def add(self, what: str, place: str) -> None:
        """Note one problem; those with the same `what` are counted together."""
        self._found.setdefault(what, Problem(what=what)).add(place)

    def add_counted(self, what: str, count: int, first: Iterable[str]) -> None:
        """Note several problems of which only the first few are known by name."""
        if count:
            self._found[what] = Problem(count, list(first), what)

    @property
    def problems(self) -> list[Problem]:
        """Everything that is wrong; empty for a folder that is in order."""
        return list(self._found.values())

    def text(self) -> str:
        """Return the lines for a terminal: problems with counts and the first few, then what was checked."""
        lines: list[str] = []
        for problem in self.problems:
            lines.append(f"{problem.what}: {problem.count:,}")
            lines += [f"  {place}" for place in problem.first]
            if problem.count > len(problem.first):
                lines.append(f"  ... and {problem.count - len(problem.first):,} more")
        lines += [f"checked: {what}" for what in self.checked]
        lines += [f"not checked: {what}" for what in self.nothing]
        kinds = len(self.problems)
        verdict = f"{kinds} kinds of problems" if kinds > 1 else "1 kind of problem" if kinds else "in order"
        return "\n".join([*lines, f"{self.folder}: {verdict}"])


def check_files(
    folder: Path,
    annotations: Sequence[Annotation] | None,
    result: Verification,
    *,
    decode: bool,
    workers: int,
) -> None:
    """Check every file: named images are there, images can be decoded, checksums are right.

    Args:
        annotations: None if they could not be read; files are then not compared with them.
        decode: decode the images.
        workers: number of processes.
    """
    sums = _read_checksums(folder, result)
    images: set[str] = set()
    shards: list[Shard] = []
    if (folder / IMAGE_FOLDER).is_dir():
        images = _check_image_folder(folder, annotations, sums, result)
    if (folder / SHARD_FOLDER).is_dir():
        shards = _check_index(folder / SHARD_FOLDER, annotations, result)
        for shard in shards:
            # Each tar is read once, and compared with the index.
            if sums.pop(f"{SHARD_FOLDER}/{shard.name}", shard.sha256) != shard.sha256:
                result.add(f"shards with another checksum in {CHECKSUM_FILE} than in the index", shard.name)
    names = sorted(sums.keys() | (images if decode else set()))
    files = [FileToCheck(folder / name, sums.get(name, ""), decode and name in images) for name in names]
    check_shards = functools.partial(check_some_shards, folder=folder / SHARD_FOLDER, decode=decode)
    _run(check_some_files, files, FILES_AT_ONCE, workers, result)
    _run(check_shards, shards, 1, workers, result)
    _note_checks(len(images), sum(len(shard.images) for shard in shards), len(sums), decode, result)


def _run(
    check: Callable[[list[T]], Iterable[Found]],
    items: list[T],
    chunk: int,
    workers: int,
    result: Verification,
) -> None:
    processes = workers if len(items) > chunk else 1
    with tqdm(desc="checking", unit=" files", total=len(items), delay=3, mininterval=1) as bar:
        for number, found in enumerate(map_chunks(check, items, chunk, processes), start=1):
            for what, place in found:
                result.add(what, place)
            bar.update(min(number * chunk, len(items)) - bar.n)


def _note_checks(images: int, in_shards: int, sums: int, decode: bool, result: Verification) -> None:
    done = "decoded" if decode else "there; not decoded, as asked"
    if images:
        result.checked.append(f"{images:,} files in {IMAGE_FOLDER}/: {done}")
    if in_shards:
        result.checked.append(f"{in_shards:,} images in {SHARD_FOLDER}/: {done}; checksums of the index")
    if sums:
        result.checked.append(f"{sums:,} checksums of {CHECKSUM_FILE}")


def _read_checksums(folder: Path, result: Verification) -> dict[str, str]:
    """Return name -> SHA-256 of the files that ``SHA256SUMS`` names; those that are absent are noted."""
    path = folder / CHECKSUM_FILE
    if not path.is_file():
        result.nothing.append(f"no {CHECKSUM_FILE}: whether files have changed")
        return {}
    sums: dict[str, str] = {}
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        match = CHECKSUM_LINE.fullmatch(line)
        name = PurePosixPath(match[2]) if match else None
        if match is None or name is None or name.is_absolute() or ".." in name.parts:
            result.add(f"unusable lines of {CHECKSUM_FILE}", f"line {number}: {line[:100]}")
        elif not (folder / name).is_file():
            result.add(f"files that {CHECKSUM_FILE} names and that are absent", str(name))
        else:
            sums[str(name)] = match[1]
    if sums and ANNOTATION_FILE not in sums:
        result.add(f"files that {CHECKSUM_FILE} does not name", ANNOTATION_FILE)
    return sums


def _check_image_folder(
    folder: Path, annotations: Sequence[Annotation] | None, sums: dict[str, str], result: Verification
) -> set[str]:
    """Compare the files in ``image/`` with the annotations; return the images' paths below `folder`."""
    store = LooseImages(folder / IMAGE_FOLDER)
    present = _files_below(folder, IMAGE_FOLDER)
    named: set[str] = set()
    for row in annotations or ():
        file = store.find(row.image_id)
        if file is None:
            result.add(f"annotated images that are not in {IMAGE_FOLDER}/", f"{row.image_id} ({row.place})")
        else:
            named.add(file.relative_to(folder).as_posix())
    if annotations is not None:
        for name in sorted(present - named):
            result.add(f"files in {IMAGE_FOLDER}/ that no annotation names", name)
    if sums:
        for name in sorted(named - sums.keys()):
            result.add(f"files that {CHECKSUM_FILE} does not name", name)
    return named | {name for name in present if name.endswith(IMAGE_SUFFIXES)}


def _check_index(folder: Path, annotations: Sequence[Annotation] | None, result: Verification) -> list[Shard]:
    """Compare the index of the shards with the annotations and the files; return what it lists."""
    try:
        shards = read_index(folder)
    except XrayGPTError as error:
        result.add("the index of the shards cannot be read", str(error))
        return []
    for problem in file_problems(folder, shards):
        result.add("shards that are absent or of another size than the index says", problem)
    for name in sorted({file.name for file in folder.iterdir()} - {s.name for s in shards} - {INDEX_FILE}):
        result.add(f"files in {SHARD_FOLDER}/ that the index does not name", name)
    if annotations is not None:
        indexed = {member.image_id for shard in shards for member in shard.images}
        places = {row.image_id: row.place for row in annotations}
        for image_id in sorted(places.keys() - indexed):
            result.add("annotated images that are in no shard", f"{image_id} ({places[image_id]})")
        for image_id in sorted(indexed - places.keys()):
            result.add("images in shards that no annotation names", image_id)
    return shards


def _files_below(folder: Path, below: str) -> set[str]:
    """Return the paths of all files below a folder in `folder`, relative to `folder`."""
    return {
        (Path(root) / name).relative_to(folder).as_posix()
        for root, _, names in os.walk(folder / below)
        for name in names
    }


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
