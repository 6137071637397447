"""The tables of MIMIC-CXR: which images there are, of which patient and study, in which split and view."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import is_missing
from xraygpt.common.tables import SPLITS, normalise_split, read_table
from xraygpt.preparation.sources.archives import printable
from xraygpt.preparation.study import Unusable

PUBLISHED_SPLITS = ("train", "validate", "test")
"""As `SPLITS`, in the words of the table."""
_SUBJECT = re.compile(r"1[0-9]{7}")
_STUDY = re.compile(r"5[0-9]{7}")
_DICOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")


class Image(NamedTuple):
    """One image of a study."""

    dicom_id: str
    view: str | None
    """ViewPosition, in capitals; None where the metadata do not have the image."""


class Entry(NamedTuple):
    """One row of the table of splits."""

    subject: int
    study: int
    dicom_id: str
    split: str


@dataclass(frozen=True)
class ImageTable:
    """All images, in the order of subject, study and image."""

    entries: list[Entry]
    views: Mapping[str, str]
    conflicts: dict[int, str]
    """Number of a patient or a study -> why it cannot be used."""
    problems: tuple[Unusable, ...]
    """Rows that were left out."""

    def studies(self) -> Iterator[tuple[int, int, str, list[Image]]]:
        """Yield (subject, study, split, images) of each study."""
        for (subject, study), group in groupby(self.entries, itemgetter(0, 1)):
            entries = list(group)
            images = [Image(entry.dicom_id, self.views.get(entry.dicom_id)) for entry in entries]
            yield subject, study, entries[0].split, images

    def view_counts(self) -> Counter[str]:
        """Return how many images have each view."""
        return Counter(self.views.get(entry.dicom_id, "") for entry in self.entries)


def find_table(folder: Path, kind: str) -> Path:
    """Return the table of one kind, of any version and compressed or not.

    Args:
        folder: where the tables lie.
        kind: ``split`` or ``metadata``.

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
    rows = list(_split_entries(split_table, problems))
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
            problems.append(
                Unusable(f"{metadata_table}: {printable(dicom_id)}", f"is not in {split_table.name}")
            )
    return ImageTable(sorted(entries.values()), views, _conflicts(rows), tuple(problems))


def _split_entries(table: Path, problems: list[Unusable]) -> Iterator[Entry]:
    """Yield the usable rows."""
    for row in read_table(table, ("dicom_id", "study_id", "subject_id", "split")):
        values = row.values
        subject, study, dicom_id = values["subject_id"], values["study_id"], values["dicom_id"]
        if not _SUBJECT.fullmatch(subject):
            reason = f"subject_id '{subject}' is not 8 digits that begin with 1"
        elif not _STUDY.fullmatch(study):
            reason = f"study_id '{study}' is not 8 digits that begin with 5"
        elif not _DICOM.fullmatch(dicom_id):
            reason = f"dicom_id '{dicom_id}' is not five groups of eight hexadecimal digits"
        elif values["split"] not in PUBLISHED_SPLITS:
            reason = f"split '{values['split']}' is none of {', '.join(PUBLISHED_SPLITS)}"
        else:
            yield Entry(int(subject), int(study), dicom_id, normalise_split(values["split"]))
            continue
        problems.append(Unusable(row.place, printable(reason)))


def _conflicts(rows: Iterable[Entry]) -> dict[int, str]:
    """Say which patients and studies are in several splits, and which studies have several patients."""
    conflicts: dict[int, str] = {}
    for key in ("subject", "study"):
        for number, found in _ambiguous(rows, key, "split").items():
            what = f"patient {number} is" if key == "subject" else "is"
            conflicts[number] = f"{what} in several splits ({', '.join(sorted(found, key=SPLITS.index))})"
    for number, found in _ambiguous(rows, "study", "subject").items():
        conflicts[number] = f"belongs to several patients ({', '.join(map(str, sorted(found)))})"
    return conflicts


def _ambiguous(rows: Iterable[Entry], key: str, value: str) -> dict[int, set[Any]]:
    """Return the keys that come with more than one value, with these values."""
    first: dict[int, Any] = {}
    several: dict[int, set[Any]] = defaultdict(set)
    for row in rows:
        known = first.setdefault(getattr(row, key), getattr(row, value))
        if known != getattr(row, value):
            several[getattr(row, key)] |= {known, getattr(row, value)}
    return several
