"""MIMIC-CXR and MIMIC-CXR-JPG as PhysioNet publishes them."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.preparation.sources.archives import ZIP_DAMAGES
from xraygpt.preparation.sources.mimic_tables import Image, ImageTable, find_table, read_images
from xraygpt.preparation.sources.sections import parse_sections
from xraygpt.preparation.study import Picture, Study, Unusable

DEFAULT_VIEWS = ("PA", "AP")
REPORTS_ZIP = "mimic-cxr-reports.zip"
MAX_REPORT_BYTES = 1 << 20
OUTSIDE = "is a link to a place outside of the data; not followed"
NO_FILE = "no such file"
NO_REPORT = "there is no report"
IMAGE_SUFFIXES = (".jpg", ".dcm")
_REPORT = re.compile(r"(?:^|/)p1[0-9]/p1[0-9]{7}/s(5[0-9]{7})\.txt$")


class MimicCXRSource:
    """The tree ``files/p10/p10000032/s50414267/<image>.jpg`` (or ``.dcm``) with its reports and tables.

    Studies come by the numbers of patient and study. A study without a report, a patient in several splits
    and a row that cannot be read come as `Unusable`; an image of another view, without metadata or without a
    file is among a study's ``skipped_pictures``. Symbolic links that lead out of the tree are not followed.

    Args:
        root: the folder with ``files/``; JPEG or DICOM, as it is found there.
        reports: the folder with the ``files/`` of the reports, or ``mimic-cxr-reports.zip``; None looks for
            the zip file in `root`, then for reports among the images. MIMIC-CXR-JPG is published without
            reports.
        tables: the folder with ``mimic-cxr-*-split.csv.gz`` and ``...-metadata.csv.gz``, compressed or not;
            None is `root`. MIMIC-CXR (the DICOM files) is published without them.
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
        self.tables = tables or root
        self.split_table = find_table(self.tables, "split")
        self.metadata_table = find_table(self.tables, "metadata")
        self.reports = self._find_reports(root, reports)

    def studies(self) -> Iterator[Study | Unusable]:
        """Go through all studies; report texts and folders are read as they come.

        Raises:
            DataError: a table is damaged or lacks a column, or no image has a wanted view.
        """
        table = self._table
        yield from table.problems
        for subject, study, split, images in table.studies():
            conflict = table.conflicts.get(study) or table.conflicts.get(subject)
            if conflict:
                yield Unusable(f"study {study} of patient {subject}", conflict)
                continue
            try:
                yield self._study(subject, study, split, images)
            except UnusableFileError as error:
                yield Unusable(self.reports.place(subject, study), str(error))

    def _study(self, subject: int, study: int, split: str, images: Sequence[Image]) -> Study:
        sections = parse_sections(self.reports.read(subject, study))
        files = self.images.images(subject, study)
        pictures: list[Picture] = []
        skipped: dict[str, str] = {}
        for image in images:
            file = files.get(image.dicom_id, NO_FILE)
            if image.view is None:
                skipped[image.dicom_id] = f"is not in {self.metadata_table.name}"
            elif image.view not in self.views:
                skipped[image.dicom_id] = f"view is {image.view or 'not given'}"
            elif isinstance(file, str):
                skipped[image.dicom_id] = file
            else:
                pictures.append(Picture(image.dicom_id, file, image.view))
        return Study(str(study), sections, tuple(pictures), str(subject), split, skipped)

    def _find_reports(self, root: Path, reports: Path | None) -> Reports:
        if reports is None:
            reports = root / REPORTS_ZIP if (root / REPORTS_ZIP).is_file() else root
        if reports.is_file():
            return ReportZip(reports)
        if not reports.is_dir():
            raise MissingFileError(f"{reports}: no such folder or zip file with the reports")
        tree = self.images if reports == root else Tree(reports)
        if not tree.has_reports():
            raise MissingFileError(
                f"{reports}: has no reports (files/p10/p10000032/s50414267.txt and the like). MIMIC-CXR-JPG "
                f"is published without; name the {REPORTS_ZIP} of MIMIC-CXR, or the folder with its files/"
            )
        return tree

    @cached_property
    def _table(self) -> ImageTable:
        table = read_images(self.split_table, self.metadata_table)
        counts = table.view_counts()
        if not self.views & counts.keys():
            there = ", ".join(f"{view or 'none given'} ({count})" for view, count in sorted(counts.items()))
            wanted = ", ".join(sorted(self.views))
            raise DataError(f"{self.metadata_table}: no image has the view {wanted}; there are: {there}")
        return table


class UnusableFileError(DataError):
    """A file of one study that cannot be used; the message is the reason."""


class Reports(Protocol):
    """Where the reports are."""

    def place(self, subject: int, study: int) -> str:
        """Name the report, for the record."""

    def read(self, subject: int, study: int) -> str:
        """Return the text of a report.

        Raises:
            UnusableFileError: there is none, or it is no text.
        """


class Tree:
    """The folder ``files/`` as published: each folder is listed once, and no link is followed out of it."""

    def __init__(self, root: Path) -> None:
        """Args: root: the folder that holds ``files/``.

        Raises:
            MissingFileError: there is no such folder.
            DataError: it is a link.
        """
        self.root = root.resolve()
        files = self.root / "files"
        if not files.is_dir():
            raise MissingFileError(f"{root}: has no folder 'files' (with p10/p10000032/... in it)")
        if self._leads_outside(files):
            raise DataError(f"{root}: its folder 'files' {OUTSIDE}; name the folder that holds the real one")
        self._subject = 0
        self._patient: dict[str, str] = {}

    def has_reports(self) -> bool:
        """Whether there is any report in the tree."""
        return any(True for _ in self.root.glob("files/p1?/p1???????/s5???????.txt"))

    def images(self, subject: int, study: int) -> dict[str, Path | str]:
        """Return image id -> file, or why it cannot be used, of the images in the folder of a study.

        Raises:
            UnusableFileError: the folder cannot be read or lies outside.
        """
        folder = self._file(subject, f"s{study}")
        if folder is None:
            return {}
        files = [(Path(name), problem) for name, problem in self._listing(folder).items()]
        return {
            file.stem: problem or folder / file for file, problem in files if file.suffix in IMAGE_SUFFIXES
        }

    def place(self, subject: int, study: int) -> str:
        return _patient_folder(Path(), subject).joinpath(f"s{study}.txt").as_posix()

    def read(self, subject: int, study: int) -> str:
        path = self._file(subject, f"s{study}.txt")
        if path is None:
            raise UnusableFileError(NO_REPORT)
        try:
            with path.open("rb") as file:
                return _text(file.read(MAX_REPORT_BYTES + 1))
        except OSError as error:
            raise UnusableFileError(f"the report cannot be read ({error.strerror})") from error

    def _file(self, subject: int, name: str) -> Path | None:
        """Return a file or folder of a patient; None if it is not there."""
        folder = _patient_folder(self.root, subject)
        if subject != self._subject:  # studies come patient by patient
            if self._leads_outside(folder):
                raise UnusableFileError(f"the folder of patient {subject} {OUTSIDE}")
            self._patient = self._listing(folder)
            self._subject = subject
        problem = self._patient.get(name)
        if problem:
            raise UnusableFileError(f"{name} {problem}")
        return None if problem is None else folder / name

    def _listing(self, folder: Path) -> dict[str, str]:
        """Return name -> what is wrong with it, "" if nothing; empty if there is no such folder."""
        try:
            with os.scandir(folder) as entries:
                return {entry.name: self._problem(entry) for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise UnusableFileError(f"the folder cannot be read ({error.strerror})") from error

    def _problem(self, entry: os.DirEntry[str]) -> str:
        if entry.is_symlink() and self._leads_outside(Path(entry.path)):
            return OUTSIDE
        try:
            return "" if entry.is_file() or entry.is_dir() else "is neither a file nor a folder"
        except OSError as error:  # links in a circle
            return f"cannot be read ({error.strerror})"

    def _leads_outside(self, path: Path) -> bool:
        # Path.resolve would fail at a link to itself.
        return not Path(os.path.realpath(path)).is_relative_to(self.root)


class ReportZip:
    """``mimic-cxr-reports.zip`` as published, read in place."""

    def __init__(self, path: Path) -> None:
        """Args: path: the zip file; any folders above ``p10/p10000032/s50414267.txt`` will do.

        Raises:
            DataError: not a zip file, or without reports.
        """
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{path}: not a zip file, or damaged ({error}); download it again") from error
        matches = ((_REPORT.search(entry.filename), entry) for entry in self.archive.infolist())
        self.entries = {int(match[1]): entry for match, entry in matches if match}
        if not self.entries:
            raise DataError(f"{path}: has no reports (files/p10/p10000032/s50414267.txt and the like)")

    def place(self, subject: int, study: int) -> str:
        return f"{self.path.name}: p{subject}/s{study}.txt"

    def read(self, subject: int, study: int) -> str:
        entry = self.entries.get(study)
        if entry is None:
            raise UnusableFileError(NO_REPORT)
        try:
            with self.archive.open(entry) as file:
                return _text(file.read(MAX_REPORT_BYTES + 1))
        except ZIP_DAMAGES as error:
            raise UnusableFileError(f"the report cannot be unpacked ({error})") from error


def _patient_folder(root: Path, subject: int) -> Path:
    return root / "files" / f"p{subject // 1_000_000}" / f"p{subject}"


def _text(data: bytes) -> str:
    if len(data) > MAX_REPORT_BYTES:
        raise UnusableFileError(f"the report is larger than {MAX_REPORT_BYTES >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableFileError(f"the report is not UTF-8 text ({error.reason})") from error
