"""The tables of MIMIC-CXR, held compactly: 50 bytes for each of the 377,110 images."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import is_missing
from xraygpt.common.tables import Row, read_table
from xraygpt.datasets.datasets.annotations import SPLITS
from xraygpt.preparation.sources.members import printable
from xraygpt.preparation.study import Unusable

PUBLISHED_SPLITS = ("train", "validate", "test")
"""As `SPLITS`, in the words of the table."""
NO_VIEW = -1
"""Code of the view of an image that the metadata do not have."""
Records = np.ndarray[Any, np.dtype[np.void]]
_IMAGE = np.dtype([("subject", "u4"), ("study", "u4"), ("dicom", "S44"), ("split", "i1"), ("view", "i4")])
_VIEW = np.dtype([("dicom", "S44"), ("view", "i4")])
_SUBJECT = re.compile(r"1[0-9]{7}")
_STUDY = re.compile(r"5[0-9]{7}")
_DICOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")


class Image(NamedTuple):
    """One row of the tables."""

    dicom_id: str
    view: str | None
    """ViewPosition, in capitals; None where the metadata do not have the image."""


@dataclass(frozen=True)
class ImageTable:
    """All images, in the order of subject, study and image."""

    records: Records
    views: tuple[str, ...]
    conflicts: dict[int, str]
    """Number of a patient or a study -> why it cannot be used."""
    problems: tuple[Unusable, ...]
    """Rows that were left out."""

    def studies(self) -> Iterator[tuple[int, int, str, list[Image]]]:
        """Yield (subject, study, split, images) of each study."""
        keys = self.records[["subject", "study"]]
        ends = [*(np.flatnonzero(keys[1:] != keys[:-1]) + 1).tolist(), len(keys)] if len(keys) else []
        start = 0
        for end in ends:
            rows = self.records[start:end]
            first = rows[0]
            images = [Image(row["dicom"].decode(), self._view(row["view"])) for row in rows]
            yield int(first["subject"]), int(first["study"]), SPLITS[first["split"]], images
            start = end

    def view_counts(self) -> dict[str, int]:
        """Return how many images have each view."""
        codes, counts = np.unique(self.records["view"], return_counts=True)
        return {self._view(code) or "": count for code, count in zip(codes, counts.tolist(), strict=True)}

    def _view(self, code: int) -> str | None:
        return None if code == NO_VIEW else self.views[code]


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
    rows = read_table(split_table, ("dicom_id", "study_id", "subject_id", "split"))
    records = np.fromiter(_split_records(rows, problems), _IMAGE)
    if not len(records):
        first = f"; {problems[0].place}: {problems[0].reason}" if problems else ""
        raise DataError(f"{split_table}: has no usable row{first}")
    conflicts = _conflicts(records)
    records = records[np.argsort(records["dicom"], kind="stable")]
    repeated = records["dicom"][1:] == records["dicom"][:-1]
    problems += [
        Unusable(f"{split_table}: {dicom.decode()}", "is listed more than once; the first row counts")
        for dicom in records["dicom"][1:][repeated]
    ]
    records = records[np.concatenate([[True], ~repeated])]
    views = _join_views(records, metadata_table, split_table, problems)
    order = np.lexsort((records["dicom"], records["study"], records["subject"]))
    return ImageTable(records[order], views, conflicts, tuple(problems))


def _split_records(
    rows: Iterator[Row], problems: list[Unusable]
) -> Iterator[tuple[int, int, bytes, int, int]]:
    """Yield the usable rows; the view is filled in later."""
    codes = {name: code for code, name in enumerate(PUBLISHED_SPLITS)}
    for row in rows:
        values = row.values
        subject, study, dicom = values["subject_id"], values["study_id"], values["dicom_id"]
        split = codes.get(values["split"])
        if not _SUBJECT.fullmatch(subject):
            reason = f"subject_id '{subject}' is not 8 digits that begin with 1"
        elif not _STUDY.fullmatch(study):
            reason = f"study_id '{study}' is not 8 digits that begin with 5"
        elif not _DICOM.fullmatch(dicom):
            reason = f"dicom_id '{dicom}' is not five groups of eight hexadecimal digits"
        elif split is None:
            reason = f"split '{values['split']}' is none of {', '.join(PUBLISHED_SPLITS)}"
        else:
            yield int(subject), int(study), dicom.encode(), split, NO_VIEW
            continue
        problems.append(Unusable(row.place, printable(reason)))


def _conflicts(records: Records) -> dict[int, str]:
    """Say which patients and studies are in several splits, and which studies have several patients."""
    conflicts = {
        number: f"patient {number} is in several splits ({', '.join(SPLITS[code] for code in codes)})"
        for number, codes in _ambiguous(records, "subject", "split").items()
    }
    for number, codes in _ambiguous(records, "study", "split").items():
        conflicts[number] = f"is in several splits ({', '.join(SPLITS[code] for code in codes)})"
    for number, subjects in _ambiguous(records, "study", "subject").items():
        conflicts[number] = f"belongs to several patients ({', '.join(map(str, subjects))})"
    return conflicts


def _ambiguous(records: Records, key: str, value: str) -> dict[int, list[int]]:
    """Return the keys that come with more than one value, with these values."""
    pairs = np.unique(records[[key, value]])
    several = pairs[key][1:][pairs[key][1:] == pairs[key][:-1]]
    found: dict[int, list[int]] = defaultdict(list)
    for pair in pairs[np.isin(pairs[key], several)]:
        found[int(pair[key])].append(int(pair[value]))
    return found


def _join_views(
    records: Records, metadata_table: Path, split_table: Path, problems: list[Unusable]
) -> tuple[str, ...]:
    """Fill in the views of records that are sorted by dicom; return the names behind the codes."""
    codes: dict[str, int] = {}
    rows = read_table(metadata_table, ("dicom_id", "ViewPosition"))
    pairs = ((row.values["dicom_id"].encode(), row.values["ViewPosition"].strip().upper()) for row in rows)
    named = ((dicom, "" if is_missing(view) else view) for dicom, view in pairs)
    coded = ((dicom, codes.setdefault(view, len(codes))) for dicom, view in named)
    metadata = np.fromiter(coded, _VIEW)
    places = np.searchsorted(records["dicom"], metadata["dicom"]).clip(max=len(records) - 1)
    known = records["dicom"][places] == metadata["dicom"]
    records["view"][places[known]] = metadata["view"][known]
    problems += [
        Unusable(
            f"{metadata_table}: {printable(dicom.decode(errors='replace'))}", f"is not in {split_table.name}"
        )
        for dicom in metadata["dicom"][~known]
    ]
    return tuple(codes)
