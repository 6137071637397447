"""The record of a preparation, ``studies.jsonl``: one line for each study or unusable item.

It is read here, and searched for what occurs more than once: patients, studies, images, captions.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import parse_json

OUTCOMES = ("kept", "dropped", "rejected")
WRITTEN_KEYS = {"width", "height", "original_width", "original_height", "bytes", "pixels"}

Row = dict[str, Any]
MAX_CAPTION = 100
NAMED = 5
"""So many places are named where something occurred."""


def read_record(path: Path) -> Iterator[Row]:
    """Yield the row of every line.

    Raises:
        MissingFileError: no such file.
        DataError: a line is not JSON, or neither a study nor an unusable item; names the line.
    """
    if not path.is_file():
        raise MissingFileError(f"missing file: the record of a preparation\n  expected at: {path}")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}: line {number}"
            row = parse_json(line, place)
            if problem := _problem_of(row):
                raise DataError(f"{place}: {problem}")
            yield row


def written_pictures(row: Row) -> list[Row]:
    """Return the images that were written for a study; none for one that was not kept."""
    if row["outcome"] != "kept":
        return []
    return [picture for picture in row.get("pictures", ()) if picture.get("outcome") == "written"]


def _problem_of(row: Any) -> str | None:
    if not isinstance(row, dict):
        return f"expected an object, found {type(row).__name__}"
    if "unusable" in row:
        return None if isinstance(row.get("reason"), str) else '"reason" is missing'
    if not isinstance(row.get("study_id"), str) or row.get("outcome") not in OUTCOMES:
        return f'expected "study_id" and "outcome" ({", ".join(OUTCOMES)}), or "unusable"'
    if row["outcome"] == "kept" and not all(isinstance(row.get(key), str) for key in ("caption", "split")):
        return 'a kept study needs the texts "caption" and "split"'
    pictures = row.get("pictures", [])
    if not isinstance(pictures, list) or not all(isinstance(p, dict) and "image_id" in p for p in pictures):
        return '"pictures" must be a list of objects with the key "image_id"'
    for picture in pictures:
        if picture.get("outcome") == "written" and not picture.keys() >= WRITTEN_KEYS:
            missing = ", ".join(sorted(WRITTEN_KEYS - picture.keys()))
            return f"the image {picture['image_id']} was written, but lacks {missing}"
    return None


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


class LeakageSearch:
    """Looks for equal values among the studies that are kept; `add` takes the rows of the record."""

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:")
        columns = "kind TEXT, value TEXT, row INTEGER, study TEXT, split TEXT, image TEXT"
        self._db.execute(f"CREATE TABLE found ({columns})")
        self._rows = 0

    def add(self, row: Row, written: Iterable[Row]) -> None:
        """Note one kept study."""
        self._rows += 1
        found = [("study", row["study_id"], ""), ("caption", row["caption"], "")]
        if row.get("patient_id"):
            found.append(("patient", row["patient_id"], ""))
        found += [
            ("pixels", picture["pixels"], picture["image_id"]) for picture in written if picture.get("pixels")
        ]
        place = self._rows, _storable(row["study_id"]), _storable(row.get("split") or "no split")
        self._db.executemany(
            "INSERT INTO found VALUES (?, ?, ?, ?, ?, ?)",
            ((kind, _storable(value), *place, _storable(image)) for kind, value, image in found),
        )

    def result(self) -> Leakage:
        """Return what was found."""
        self._db.execute("CREATE INDEX by_value ON found (kind, value)")
        patients = self._db.execute("SELECT COUNT(*) FROM found WHERE kind = 'patient'").fetchone()
        return Leakage(
            studies_with_patient=patients[0],
            patients_in_splits=self._shared("patient", "split"),
            studies_in_splits=self._shared("study", "split"),
            studies_repeated=self._shared("study", "rowid"),
            pixels_in_splits=self._shared("pixels", "split"),
            pixels_in_studies=self._shared("pixels", "study"),
            pixels_repeated=self._shared("pixels", "rowid"),
            captions_repeated=self._shared("caption", "rowid"),
            captions_in_splits=self._shared("caption", "split"),
        )

    def _shared(self, kind: str, owner: str) -> Shared:
        """Return the values that occur with more than one owner, a column; those that come first by name."""
        groups = self._db.execute(
            f"""SELECT COUNT(*), value FROM found WHERE kind = ?
            GROUP BY value HAVING COUNT(DISTINCT {owner}) > 1 ORDER BY MIN(rowid)""",
            (kind,),
        ).fetchall()
        first = tuple(self._describe(kind, value, owner) for _, value in groups[:NAMED])
        return Shared(len(groups), sum(count for count, _ in groups), first)

    def _describe(self, kind: str, value: str, owner: str) -> str:
        """Name a value and where the first few of its owners have it."""
        places = self._db.execute(
            f"""SELECT study, split, row, MIN(rowid) FROM found WHERE kind = ? AND value = ?
            GROUP BY {owner} ORDER BY MIN(rowid) LIMIT ?""",
            (kind, value, NAMED),
        ).fetchall()
        if kind == "study":
            return f"study {value}: {', '.join(split for _, split, *_ in places)}"
        if kind == "pixels":
            rows = ", ".join({str(row) for _, _, row, _ in places})
            images = self._db.execute(
                f"""SELECT DISTINCT image, study, split FROM found WHERE kind = ? AND value = ?
                AND row IN ({rows}) ORDER BY rowid""",
                (kind, value),
            )
            return " = ".join(f"{image} (study {study}, {split})" for image, study, split in images)
        name = f"patient {value}" if kind == "patient" else shorten(value, MAX_CAPTION, placeholder=" …")
        return f"{name}: " + ", ".join(f"study {study} ({split})" for study, split, *_ in places)


def _storable(text: str) -> str:
    """Return a text without the halves of characters that JSON can write and no database takes."""
    return text.encode("utf-8", "replace").decode()
