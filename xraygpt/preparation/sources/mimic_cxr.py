"""MIMIC-CXR and MIMIC-CXR-JPG as PhysioNet publishes them."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import IO, NamedTuple

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import is_missing
from xraygpt.common.tables import SPLITS, normalise_split, read_table
from xraygpt.preparation.sources.files import DAMAGES, printable
from xraygpt.preparation.sources.sections import parse_sections
from xraygpt.preparation.study import Picture, Study, Unusable

DEFAULT_VIEWS = ("PA", "AP")
REPORTS_ZIP = "mimic-cxr-reports.zip"
MAX_REPORT_BYTES = 1 << 20
OUTSIDE = "is a link to a place outside of the data; not followed"
NO_FILE = "no such file"
NO_REPORT = "there is no report"
IMAGE_SUFFIXES = (".jpg", ".dcm")
COLUMNS = {
    "subject_id": (re.compile(r"1[0-9]{7}"), "not 8 digits that begin with 1"),
    "study_id": (re.compile(r"5[0-9]{7}"), "not 8 digits that begin with 5"),
    "dicom_id": (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}"), "not five groups of eight hexadecimal digits"),
    "split": (re.compile(r"train|validate|test"), "none of train, validate, test"),
}
"""Columns of the table of splits -> form of their values, and what one is that has another."""
_REPORT = re.compile(r"(?:^|/)p1[0-9]/p1[0-9]{7}/s(5[0-9]{7})\.txt$")


class MimicCXRSource:
    """The tree ``files/p10/p10000032/s50414267/<image>.jpg`` (or ``.dcm``) with its reports and tables.

    Symbolic links that lead out of the tree are not followed.

    Args:
        root: the folder with ``files/``; JPEG or DICOM, as it is found there.
        reports: the folder with the ``files/`` of the reports, or ``mimic-cxr-reports.zip``; None looks for
            the zip file in `root`, then for reports among the images.
        tables: the folder with ``mimic-cxr-*-split.csv.gz`` and ``...-metadata.csv.gz``, compressed or not;
            None is `root`.
        views: the values of ``ViewPosition`` that are wanted.

    Raises:
        MissingFileError: a folder, the reports or a table are not there.
        DataError: several tables could be meant, or the zip file is damaged.
    """

    name = "mimic-cxr"

    def __init__(
        self,
        root: Path,
        *,
        reports: Path | None = None,
        tables: Path | None = None,
        views: Sequence[str] = DEFAULT_VIEWS,
    ) -> None:
        self.images = Tree(root)
        self.views = frozenset(view.strip().upper() for view in views)
        self.split_table = find_table(tables or root, "split")
        self.metadata_table = find_table(tables or root, "metadata")
        if reports is None:
            reports = root / REPORTS_ZIP if (root / REPORTS_ZIP).is_file() else root
        self.reports = ReportZip(reports) if reports.is_file() else _report_tree(reports)

    def studies(self) -> Iterator[Study | Unusable]:
        """Go through all studies by the numbers of patient and study.

        A study without a report, a patient in several splits and a row that cannot be read come as
        `Unusable`; an image of another view, without metadata or without a file is among a study's
        ``skipped_pictures``.

        Raises:
            DataError: a table is damaged or lacks a column, or no image has a wanted view.
        """
        table = read_images(self.split_table, self.metadata_table)
        counts = Counter(table.views.get(entry.dicom_id, "") for entry in table.entries)
        if not self.views & counts.keys():
            there = ", ".join(f"{view or 'none given'} ({count})" for view, count in sorted(counts.items()))
            wanted = ", ".join(sorted(self.views))
            raise DataError(f"{self.metadata_table}: no image has the view {wanted}; there are: {there}")
        yield from table.problems
        for subject, study, split, images in table.studies():
            conflict = table.conflicts.get(study) or table.conflicts.get(subject)
            if conflict:
                yield Unusable(f"study {study} of patient {subject}", conflict)
                continue
            text = self.reports.report(subject, study)
            if isinstance(text, Unusable):
                yield text
                continue
            pictures: list[Picture] = []
            skipped: dict[str, str] = {}
            for dicom_id, view in images:
                if view is None:
                    skipped[dicom_id] = f"is not in {self.metadata_table.name}"
                elif view not in self.views:
                    skipped[dicom_id] = f"view is {view or 'not given'}"
                elif isinstance(file := self.images.image(subject, study, dicom_id), str):
                    skipped[dicom_id] = file
                else:
                    pictures.append(Picture(dicom_id, file, view))
            yield Study(str(study), parse_sections(text), tuple(pictures), str(subject), split, skipped)


class Tree:
    """The folder `root` with ``files/`` as published; no link is followed out of it.

    Raises:
        MissingFileError: there is no such folder.
        DataError: it is a link.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.inside = os.path.join(self.root, "")
        files = self.root / "files"
        if not files.is_dir():
            raise MissingFileError(f"{root}: has no folder 'files' (with p10/p10000032/... in it)")
        if self._problem(files) == OUTSIDE:
            raise DataError(f"{root}: its folder 'files' {OUTSIDE}; name the folder that holds the real one")

    def image(self, subject: int, study: int, dicom_id: str) -> Path | str:
        """Return the file of an image, or why it cannot be used."""
        for suffix in IMAGE_SUFFIXES:
            path = self.root / f"{_folder(subject)}/s{study}/{dicom_id}{suffix}"
            problem = self._problem(path)
            if problem != NO_FILE:
                return problem or path
        return NO_FILE

    def report(self, subject: int, study: int) -> str | Unusable:
        """Return the text of a report, or why there is none."""
        path = self.root / f"{_folder(subject)}/s{study}.txt"
        place = path.relative_to(self.root).as_posix()
        if problem := self._problem(path):
            return Unusable(place, NO_REPORT if problem == NO_FILE else f"{path.name} {problem}")
        try:
            with path.open("rb") as file:
                return _text(file, place)
        except OSError as error:
            return Unusable(place, f"the report cannot be read ({error.strerror})")

    def _problem(self, path: Path) -> str:
        """Return why a file cannot be used; "" if it can."""
        # Path.resolve would fail at a link to itself.
        if not os.path.realpath(path).startswith(self.inside):
            return OUTSIDE
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return NO_FILE
        except OSError as error:  # links in a circle
            return f"cannot be read ({error.strerror})"
        return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "is neither a file nor a folder"


def _report_tree(folder: Path) -> Tree:
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder or zip file with the reports")
    tree = Tree(folder)
    if next(tree.root.glob("files/p1?/p1???????/s5???????.txt"), None) is None:
        raise MissingFileError(
            f"{folder}: has no reports (files/p10/p10000032/s50414267.txt and the like). MIMIC-CXR-JPG "
            f"is published without; name the {REPORTS_ZIP} of MIMIC-CXR, or the folder with its files/"
        )
    return tree


class ReportZip:
    """``mimic-cxr-reports.zip``, read in place; any folders above ``p10/p10000032/s50414267.txt`` will do.

    Raises:
        DataError: not a zip file, or without reports.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{path}: not a zip file, or damaged ({error}); download it again") from error
        matches = ((_REPORT.search(entry.filename), entry) for entry in self.archive.infolist())
        self.entries = {int(match[1]): entry for match, entry in matches if match}
        if not self.entries:
            raise DataError(f"{path}: has no reports (files/p10/p10000032/s50414267.txt and the like)")

    def report(self, subject: int, study: int) -> str | Unusable:
        """Return the text of a report, or why there is none."""
        place = f"{self.path.name}: p{subject}/s{study}.txt"
        if study not in self.entries:
            return Unusable(place, NO_REPORT)
        try:
            with self.archive.open(self.entries[study]) as file:
                return _text(file, place)
        except DAMAGES as error:
            return Unusable(place, f"the report cannot be unpacked ({error})")


def _folder(subject: int) -> str:
    return f"files/p{subject // 1_000_000}/p{subject}"


def _text(file: IO[bytes], place: str) -> str | Unusable:
    data = file.read(MAX_REPORT_BYTES + 1)
    if len(data) > MAX_REPORT_BYTES:
        return Unusable(place, f"the report is larger than {MAX_REPORT_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Unusable(place, f"the report is not UTF-8 text ({error.reason})")


class Entry(NamedTuple):
    """One row of the table of splits."""

    subject: int
    study: int
    dicom_id: str
    split: str


class ImageTable(NamedTuple):
    """What the tables say of all images."""

    entries: list[Entry]
    """In the order of subject, study and image."""
    views: Mapping[str, str]
    """Image -> ViewPosition, in capitals."""
    conflicts: dict[int, str]
    """Number of a patient or a study -> why it cannot be used."""
    problems: list[Unusable]
    """Rows that were left out."""

    def studies(self) -> Iterator[tuple[int, int, str, list[tuple[str, str | None]]]]:
        """Yield (subject, study, split, images) of each study; an image without metadata has no view."""
        for (subject, study), group in groupby(self.entries, itemgetter(0, 1)):
            entries = list(group)
            images = [(entry.dicom_id, self.views.get(entry.dicom_id)) for entry in entries]
            yield subject, study, entries[0].split, images


def find_table(folder: Path, kind: str) -> Path:
    """Return the table of one kind, ``split`` or ``metadata``, of any version and compressed or not.

    Raises:
        MissingFileError: there is none.
        DataError: there are several.
    """
    found = [*folder.glob(f"mimic-cxr-*-{kind}.csv.gz"), *folder.glob(f"mimic-cxr-*-{kind}.csv")]
    if not found:
        raise MissingFileError(
            f"{folder}: no table mimic-cxr-*-{kind}.csv.gz; it is published with MIMIC-CXR-JPG, beside files/"
        )
    if len(found) > 1:
        names = ", ".join(sorted(path.name for path in found))
        raise DataError(f"{folder}: several tables could be meant: {names}; leave one of them there")
    return found[0]


def read_images(split_table: Path, metadata_table: Path) -> ImageTable:
    """Read which images there are, with split and view.

    Raises:
        DataError: a table is damaged or lacks a column, or no row of it can be used.
    """
    problems: list[Unusable] = []
    rows: list[Entry] = []
    for line in read_table(split_table, tuple(COLUMNS)):
        values = line.values
        wrong = next((name for name, (form, _) in COLUMNS.items() if not form.fullmatch(values[name])), "")
        if wrong:
            reason = f"{wrong} '{values[wrong]}' is {COLUMNS[wrong][1]}"
            problems.append(Unusable(line.place, printable(reason)))
        else:
            numbers = int(values["subject_id"]), int(values["study_id"])
            rows.append(Entry(*numbers, values["dicom_id"], normalise_split(values["split"])))
    if not rows:
        first = f"; {problems[0].place}: {problems[0].reason}" if problems else ""
        raise DataError(f"{split_table}: has no usable row{first}")
    entries: dict[str, Entry] = {}
    for row in rows:
        if entries.setdefault(row.dicom_id, row) is not row:
            reason = "is listed more than once; the first row counts"
            problems.append(Unusable(f"{split_table}: {row.dicom_id}", reason))
    views: dict[str, str] = {}
    for line in read_table(metadata_table, ("dicom_id", "ViewPosition")):
        dicom_id, view = line.values["dicom_id"], line.values["ViewPosition"].strip().upper()
        if dicom_id in entries:
            views[entries[dicom_id].dicom_id] = "" if is_missing(view) else view
        else:
            place = f"{metadata_table}: {printable(dicom_id)}"
            problems.append(Unusable(place, f"is not in {split_table.name}"))
    return ImageTable(sorted(entries.values()), views, _conflicts(rows), problems)


def _conflicts(rows: Sequence[Entry]) -> dict[int, str]:
    """Say which patients and studies are in several splits, and which studies have several patients."""
    conflicts: dict[int, str] = {}
    for key, value, conflict in (
        ("subject", "split", "patient {} is in several splits"),
        ("study", "split", "is in several splits"),
        ("study", "subject", "belongs to several patients"),
    ):
        pairs = sorted(set(map(attrgetter(key, value), rows)))
        for number, group in groupby(pairs, itemgetter(0)):
            values = [found for _, found in group]
            if len(values) > 1:
                listed = ", ".join(map(str, sorted(values, key=(*SPLITS, *values).index)))
                conflicts[number] = f"{conflict.format(number)} ({listed})"
    return conflicts
