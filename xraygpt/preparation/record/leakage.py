"""What occurs more than once in a preparation: patients, studies, images, captions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import shorten

from xraygpt.preparation.record.counts import NAMED
from xraygpt.preparation.record.study_record import Row

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
