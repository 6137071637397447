"""What occurs more than once in a preparation: patients, studies, images, captions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from xraygpt.preparation.record.study_record import Row, read_rows_at, written_pictures
from xraygpt.preparation.record.tallies import EqualValues, Groups, hash_of

MAX_CAPTION = 100


@dataclass(frozen=True, slots=True)
class Shared:
    """Values that several rows have in common."""

    values: int = 0
    """Number of such values."""
    members: int = 0
    """Number of times that they occur."""
    first: tuple[str, ...] = ()
    """The first few, with where they occur."""


@dataclass(frozen=True, slots=True)
class Leakage:
    """What kept studies have in common that would let a test see training data, or count data twice."""

    studies_with_patient: int
    """Kept studies whose patient is known."""
    patients_in_splits: Shared
    """Patients with studies in more than one split."""
    studies_in_splits: Shared
    """Study ids that stand in more than one split."""
    studies_repeated: Shared
    """Study ids that stand in the record more than once."""
    pixels_in_splits: Shared
    """Equal images in more than one split."""
    pixels_in_studies: Shared
    """Equal images in more than one study."""
    pixels_repeated: Shared
    """Equal images."""
    captions_repeated: Shared
    """Equal captions; normal reports are often worded alike."""
    captions_in_splits: Shared
    """Equal captions in more than one split; counted, not a fault."""

    def plain(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return dataclasses.asdict(self)


class LeakageSearch:
    """Looks for equal values among the studies that are kept; `add` takes the rows of the record."""

    def __init__(self) -> None:
        self._patients = EqualValues()
        self._studies = EqualValues()
        self._pixels = EqualValues()
        self._captions = EqualValues()

    def add(self, row: Row, written: Iterable[Row], offset: int) -> None:
        """Note one kept study, whose line begins at `offset`."""
        study_id, split = row["study_id"], row.get("split") or ""
        self._studies.add(study_id, study_id, split, offset)
        self._captions.add(row["caption"], study_id, split, offset)
        if row.get("patient_id"):
            self._patients.add(row["patient_id"], study_id, split, offset)
        for picture in written:
            if picture.get("pixels"):
                self._pixels.add(picture["pixels"], study_id, split, offset)

    def result(self, record: Path) -> Leakage:
        """Return what was found; the names come from the record, which is read again where needed."""

        def shared(groups: Groups, describe: Describe) -> Shared:
            rows = read_rows_at(record, (offset for _, offsets in groups.first for offset in offsets))
            first = (describe([rows[o] for o in offsets], number) for number, offsets in groups.first)
            return Shared(groups.values, groups.members, tuple(first))

        return Leakage(
            studies_with_patient=len(self._patients),
            patients_in_splits=shared(self._patients.across_splits(), _describe_patient),
            studies_in_splits=shared(self._studies.across_splits(), _describe_study),
            studies_repeated=shared(self._studies.repeated(), _describe_study),
            pixels_in_splits=shared(self._pixels.across_splits(), _describe_pictures),
            pixels_in_studies=shared(self._pixels.across_studies(), _describe_pictures),
            pixels_repeated=shared(self._pixels.repeated(), _describe_pictures),
            captions_repeated=shared(self._captions.repeated(), _describe_caption),
            captions_in_splits=shared(self._captions.across_splits(), _describe_caption),
        )


Describe = Callable[[list[Row], int], str]


def _describe_patient(rows: list[Row], number: int) -> str:
    return f"patient {rows[0]['patient_id']}: " + _studies(rows)


def _describe_study(rows: list[Row], number: int) -> str:
    return f"study {rows[0]['study_id']}: {', '.join(_split(row) for row in rows)}"


def _describe_caption(rows: list[Row], number: int) -> str:
    return f"{shorten(rows[0]['caption'], MAX_CAPTION, placeholder=' …')}: " + _studies(rows)


def _describe_pictures(rows: list[Row], number: int) -> str:
    """Name the images of `rows` whose pixels have the hash `number`."""
    names = {
        f"{picture['image_id']} (study {row['study_id']}, {_split(row)})": None
        for row in rows
        for picture in written_pictures(row)
        if hash_of(picture["pixels"]) == number
    }
    return " = ".join(names)


def _studies(rows: list[Row]) -> str:
    return ", ".join(f"study {row['study_id']} ({_split(row)})" for row in rows)


def _split(row: Row) -> str:
    return row.get("split") or "no split"
