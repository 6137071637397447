"""Does a prepared folder hold what a builder needs, readable and unchanged? Finds every problem at once."""

from __future__ import annotations

import functools
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote

from tqdm import tqdm

from xraygpt.common.errors import DataError, MissingFileError, XrayGPTError
from xraygpt.common.files import file_sha256
from xraygpt.common.tables import SPLITS, normalise_split
from xraygpt.datasets.datasets.annotations import ANNOTATION_FILE, Annotation, scan_annotations
from xraygpt.datasets.datasets.images import IMAGE_FOLDER, LooseImages
from xraygpt.datasets.datasets.shard_index import INDEX_FILE, SHARD_FOLDER, Shard, file_problems, read_index
from xraygpt.pictures.reading import IMAGE_SUFFIXES, read_image
from xraygpt.preparation.pipeline.record import (
    CHECKSUM_FILE,
    RECORD_FILE,
    WORK_FOLDER,
    LeakageSearch,
    Tally,
    annotations_of,
    read_record,
)
from xraygpt.preparation.pipeline.workers import map_chunks
from xraygpt.preparation.study import in_several_splits

CHECKSUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
FILES_AT_ONCE = 64
DECODE_SIZE = 1
"""A JPEG is read to its end at an eighth of its size too, in half the time."""

Found = Iterator[tuple[str, str]]
"""(what is wrong, with which file)."""


class Verification:
    """What was checked in a prepared folder, and what is wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems = Tally()  # what is wrong -> with what; empty for a folder that is in order
        self._note = self.problems.note
        self.checked: list[str] = []  # what was looked at, with numbers
        self.nothing: list[str] = []  # checks that had nothing to check, with the reason
        self._annotations: Sequence[Annotation] | None = None  # the usable ones; None if they cannot be read
        self._sums: dict[str, str] = {}  # name -> SHA-256, of the files that are there

    def text(self) -> str:
        """Return the lines for a terminal: problems with counts and the first few, then what was checked."""
        lines: list[str] = []
        for what, count in self.problems.items():
            first = self.problems.first[what]
            more = [f"... and {count - len(first):,} more"] if count > len(first) else []
            lines.append("\n  ".join((f"{what}: {count:,}", *first, *more)))
        lines += [f"checked: {what}" for what in self.checked]
        lines += [f"not checked: {what}" for what in self.nothing]
        kinds = len(self.problems)
        verdict = f"{kinds} kinds of problems" if kinds > 1 else "1 kind of problem" if kinds else "in order"
        return "\n".join([*lines, f"{self.folder}: {verdict}"])

    def check_annotations(self) -> None:
        """Search the annotations for what no training can use."""
        note, path = self._note, self.folder / ANNOTATION_FILE
        try:
            annotations, problems = scan_annotations(path)
        except XrayGPTError as error:
            note(f"{ANNOTATION_FILE} cannot be read", str(error))
            return
        note("unusable annotations", *problems)
        if not annotations and not problems:
            note("no annotation", str(path))
        seen: set[str] = set()
        for row in annotations:
            if row.image_id in seen:
                note("image ids that are annotated twice", f"{row.image_id} ({row.place})")
            seen.add(row.image_id)
            if not row.caption.strip():
                note("empty captions", f"{row.image_id} ({row.place})")
            if row.split not in SPLITS:
                note(f"splits that are none of {', '.join(SPLITS)}", f"'{row.split}' ({row.place})")
        torn = in_several_splits((row.study_id, row.split) for row in annotations)
        note("studies in more than one split", *torn)
        self.checked.append(f"{len(annotations):,} annotations")
        self._annotations = annotations

    def check_record(self, with_images: bool) -> None:
        """Compare the record with the annotations and search it for patients in two splits."""
        path = self.folder / RECORD_FILE
        if not path.is_file():
            self.nothing.append(f"no {path.name}: whether a patient is in two splits")
            return
        search, studies = LeakageSearch(), 0
        left = {row.image_id: row for row in self._annotations or ()}
        try:
            for row in read_record(path):
                if row.get("outcome") == "kept":
                    studies += 1
                    search.add(row)
                    if self._annotations is not None:
                        self._compare(annotations_of(row, with_images), left)
        except XrayGPTError as error:
            self._note(f"{path.name} cannot be read", str(error))
            return
        unknown = [f"{row.image_id} ({row.place})" for row in left.values()]
        self._note(f"annotations that {path.name} does not know", *unknown)
        leakage = search.result()
        for what, shared in (
            ("patients in more than one split", leakage["patients_in_splits"]),
            (f"studies that {path.name} lists more than once", leakage["studies_repeated"]),
        ):
            if shared.values:
                self.problems[what], self.problems.first[what] = shared.values, list(shared.first)
        if not search.studies_with_patient:
            self.nothing.append(f"{path.name} names no patients: whether one is in two splits")
        self.checked.append(f"{path.name}, {studies:,} kept studies")

    def _compare(self, expected: Iterable[dict[str, str]], left: dict[str, Annotation]) -> None:
        """Compare the annotations of a study with those of its row, and take them out of `left`."""
        for row in expected:
            found = left.pop(str(row["image_id"]), None)
            row["split"] = normalise_split(row["split"])
            if found is None:
                place = f"{row['image_id']} (study {row['study_id']})"
                self._note("kept studies without their annotation", place)
            elif differing := [n for n in ("study_id", "split", "caption") if row[n] != getattr(found, n)]:
                place = f"{found.image_id}: {', '.join(differing)} ({found.place})"
                self._note("annotations that differ from the record", place)

    def check_files(self, quick: bool, workers: int) -> None:
        """Compare images, shards and checksums with each other, and read all files."""
        images, shards = self.folder / IMAGE_FOLDER, self.folder / SHARD_FOLDER
        self._read_checksums()
        named = self._check_image_folder(images) if images.is_dir() else set()
        listed = self._check_index(shards) if shards.is_dir() else []
        decoded = set() if quick else named
        files: list[Callable[[], Found]] = [
            functools.partial(_check_file, self.folder / name, self._sums.get(name), name in decoded)
            for name in sorted(self._sums.keys() | decoded)
        ]
        tars: list[Callable[[], Found]] = [
            functools.partial(_check_shard, shards / shard.name, shard, not quick)
            for shard in listed
            if not file_problems(shards, [shard])
        ]
        with tqdm(
            desc="checking", unit=" files", total=len(files) + len(tars), delay=3, mininterval=1
        ) as bar:
            for checks, chunk in ((files, FILES_AT_ONCE), (tars, 1)):
                processes = workers if len(checks) > chunk else 1
                for done, problems in map_chunks(_run, checks, chunk, processes):
                    for what, place in problems:
                        self._note(what, place)
                    bar.update(done)
        state = "there; not decoded, as asked" if quick else "decoded"
        if named:
            self.checked.append(f"{len(named):,} files in {IMAGE_FOLDER}/: {state}")
        if packed := sum(len(shard.images) for shard in listed):
            self.checked.append(f"{packed:,} images in {SHARD_FOLDER}/: {state}; checksums of the index")
        if self._sums:
            self.checked.append(f"{len(self._sums):,} checksums of {CHECKSUM_FILE}")

    def _read_checksums(self) -> None:
        path = self.folder / CHECKSUM_FILE
        if not path.is_file():
            self.nothing.append(f"no {CHECKSUM_FILE}: whether files have changed")
            return
        text = path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            match = CHECKSUM_LINE.fullmatch(line)
            name = PurePosixPath(match[2]) if match else None
            if match is None or name is None or name.is_absolute() or ".." in name.parts:
                self._note(f"unusable lines of {CHECKSUM_FILE}", f"line {number}: {line[:100]}")
            elif not (self.folder / name).is_file():
                self._note(f"files that {CHECKSUM_FILE} names and that are absent", str(name))
            else:
                self._sums[str(name)] = match[1]
        if self._sums and ANNOTATION_FILE not in self._sums:
            self._note(f"files that {CHECKSUM_FILE} does not name", ANNOTATION_FILE)

    def _check_image_folder(self, folder: Path) -> set[str]:
        """Return the paths of the images below the prepared folder."""
        store = LooseImages(folder)
        named: set[str] = set()
        for row in self._annotations or ():
            if file := store.find(row.image_id):
                named.add(file.relative_to(self.folder).as_posix())
            else:
                place = f"{row.image_id} ({row.place})"
                self._note(f"annotated images that are not in {IMAGE_FOLDER}/", place)
        files = (path for path in folder.rglob("*") if not path.is_dir())
        present = {path.relative_to(self.folder).as_posix() for path in files}
        if self._annotations is not None:
            self._note(f"files in {IMAGE_FOLDER}/ that no annotation names", *sorted(present - named))
        if self._sums:
            self._note(f"files that {CHECKSUM_FILE} does not name", *sorted(named - self._sums.keys()))
        return named | {name for name in present if name.endswith(IMAGE_SUFFIXES)}

    def _check_index(self, folder: Path) -> list[Shard]:
        """Return what the index lists; its tars are taken out of the checksums, so that each is read once."""
        note = self._note
        try:
            shards = read_index(folder)
        except XrayGPTError as error:
            note("the index of the shards cannot be read", str(error))
            return []
        problems = file_problems(folder, shards)
        note("shards that are absent or of another size than the index says", *problems)
        unlisted = {file.name for file in folder.iterdir()} - {INDEX_FILE, *(shard.name for shard in shards)}
        note(f"files in {SHARD_FOLDER}/ that the index does not name", *sorted(unlisted))
        if self._annotations is not None:
            indexed = {member.image_id for shard in shards for member in shard.images}
            places = {row.image_id: row.place for row in self._annotations}
            absent = [f"{image_id} ({places[image_id]})" for image_id in sorted(places.keys() - indexed)]
            note("annotated images that are in no shard", *absent)
            note("images in shards that no annotation names", *sorted(indexed - places.keys()))
        for shard in shards:
            if self._sums.pop(f"{SHARD_FOLDER}/{shard.name}", shard.sha256) != shard.sha256:
                note(f"shards with another checksum in {CHECKSUM_FILE} than in the index", shard.name)
        return shards


def verify_folder(folder: Path, *, quick: bool = False, workers: int = 1) -> Verification:
    """Check a folder made by ``prepare.py``, or any with ``filter_cap.json`` and ``image/``.

    Args:
        quick: do not decode the images.
        workers: processes that decode and compute checksums.

    Raises:
        MissingFileError: no such folder.
        DataError: a process died, for example for lack of memory.
    """
    if not folder.is_dir():
        raise MissingFileError(f"missing folder: {folder}")
    result = Verification(folder)
    if (folder / WORK_FOLDER).exists():
        result.problems.note("an unfinished preparation; run its command again", str(folder / WORK_FOLDER))
    result.check_annotations()
    with_images = (folder / IMAGE_FOLDER).is_dir() or (folder / SHARD_FOLDER).is_dir()
    if not with_images and not (folder / RECORD_FILE).is_file():
        result.problems.note(f"neither {IMAGE_FOLDER}/ nor {SHARD_FOLDER}/ is there", str(folder))
    elif not with_images:
        result.nothing.append(f"neither {IMAGE_FOLDER}/ nor {SHARD_FOLDER}/: reports alone")
    result.check_record(with_images)
    result.check_files(quick, workers)
    return result


def _run(checks: Sequence[Callable[[], Found]]) -> tuple[int, list[tuple[str, str]]]:
    """Return how many checks were made, and what they found."""
    return len(checks), [problem for check in checks for problem in check()]


def _check_file(path: Path, digest: str | None, is_image: bool) -> Found:
    """Compare a file with its SHA-256, if that is known, and decode it if it is an image."""
    try:
        if digest is not None and file_sha256(path) != digest:
            yield "files that differ from their checksum", str(path)
    except OSError as error:
        yield "files that cannot be read", f"{path} ({error.strerror})"
        return
    if is_image:
        yield from _decode(path, str(path))


def _decode(source: Path | bytes, name: str) -> Found:
    try:
        read_image(source, DECODE_SIZE, name)
    except DataError as error:
        yield "images that cannot be decoded", str(error)


def _check_shard(path: Path, shard: Shard, decode: bool) -> Found:
    """Compare a tar with the index."""
    try:
        if file_sha256(path) != shard.sha256:
            yield "shards that differ from the checksum in the index", str(path)
        with path.open("rb") as file:
            yield from _check_members(path, file, shard)
            for member in shard.images if decode else ():
                file.seek(member.offset)
                yield from _decode(file.read(member.size), f"{path}: {member.image_id}")
    except OSError as error:
        yield "files that cannot be read", f"{path} ({error.strerror})"


def _check_members(path: Path, file: BinaryIO, shard: Shard) -> Found:
    found: dict[str, dict[str, tuple[int, int]]] = {"images": {}, "annotations": {}}
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                kind = "annotations" if name.suffix == ".json" else "images"
                found[kind][unquote(str(name.with_suffix("")))] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        yield "shards that are no tars", f"{path} ({error})"
        return
    images, indexed = found["images"], {row.image_id: (row.offset, row.size) for row in shard.images}
    for image_id in sorted(images.keys() | indexed.keys()):
        if images.get(image_id) != indexed.get(image_id):
            yield "images that lie elsewhere in the shard than the index says", f"{path}: {image_id}"
    for image_id in sorted(images.keys() ^ found["annotations"].keys()):
        yield "images without annotation in the shard, or the reverse", f"{path}: {image_id}"
