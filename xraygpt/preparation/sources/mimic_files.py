"""The files of MIMIC-CXR: images in their tree, reports in a tree of the same layout or in a zip file."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Protocol

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.preparation.sources.members import ZIP_DAMAGES

MAX_REPORT_BYTES = 1 << 20
OUTSIDE = "is a link to a place outside of the data; not followed"
NO_FILE = "no such file"
NO_REPORT = "there is no report"
IMAGE_SUFFIXES = (".jpg", ".dcm")
_REPORT = re.compile(r"(?:^|/)p1[0-9]/p1[0-9]{7}/s(5[0-9]{7})\.txt$")


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
