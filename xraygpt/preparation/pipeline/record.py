"""What a prepared folder holds; its writing, its summary and its verification all take it from here.

``studies.jsonl`` is the record: one line for each study or unusable item. The annotations follow from it, and
it is searched for what occurs more than once: patients, studies, images, captions.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import parse_json

RECORD_FILE = "studies.jsonl"
CHECKSUM_FILE = "SHA256SUMS"
REPORT_FILE = "preparation.json"
PAGE_FILE = "preparation.html"
WORK_FOLDER = ".preparing"
"""Holds what is needed to resume after an interruption; removed at the end."""

OUTCOMES = ("kept", "dropped", "rejected")
WRITTEN_KEYS = {"width", "height", "original_width", "original_height", "bytes", "pixels"}
NAMED = 5
"""So many places are named where something occurred."""
MAX_CAPTION = 100

Row = dict[str, Any]


def row_json(row: Row) -> str:
    """Return a row as a line of the record has it."""
    return json.dumps(row, ensure_ascii=False)


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
        missing = sorted(WRITTEN_KEYS - picture.keys())
        if missing and picture.get("outcome") == "written":
            return f"the image {picture['image_id']} was written, but lacks {', '.join(missing)}"
    return None


def written_pictures(row: Row) -> list[Row]:
    """Return the images that were written for a study; none for one that was not kept."""
    if row.get("outcome") != "kept":
        return []
    return [picture for picture in row.get("pictures", ()) if picture.get("outcome") == "written"]


def annotations_of(row: Row, with_images: bool) -> Iterator[dict[str, str]]:
    """Yield the annotations of a row; none for a study that was not kept.

    Args:
        with_images: one for each image that was written; otherwise one for the report, under the name of
            its study.
    """
    if row.get("outcome") != "kept":
        return
    common = {key: row[key] for key in ("caption", "split", "study_id")}
    if row.get("patient_id"):
        common["patient_id"] = row["patient_id"]
    if not with_images:
        yield {"image_id": row["study_id"], **common}
        return
    for picture in written_pictures(row):
        view = {"view": picture["view"]} if picture.get("view") else {}
        yield {"image_id": picture["image_id"], **common, **view}


class Tally(Counter[str]):
    """How often each of several things occurred, and where the first few times.

    Beyond `MAX_KEYS` of them the rest are counted together.
    """

    MAX_KEYS = 100
    OTHERS = "others"

    def __init__(self) -> None:
        super().__init__()
        self.first: defaultdict[str, list[str]] = defaultdict(list)

    def note(self, key: str, *places: str) -> None:
        """Count `key` once more at each of `places`."""
        if key not in self and len(self) >= self.MAX_KEYS:
            key = self.OTHERS
        if places:
            self[key] += len(places)
            self.first[key] += places[: NAMED - len(self.first[key])]

    def ranked(self) -> list[tuple[str, int]]:
        """Return the counts, largest first."""
        return sorted(self.items(), key=lambda item: (-item[1], item[0]))

    def lines(self) -> tuple[str, ...]:
        """Return a line for each count, largest first: ``3 × no such file: a, b, c``."""
        return tuple(
            f"{count:,} × {key}: {', '.join(self.first[key])}{', …' * (count > len(self.first[key]))}"
            for key, count in self.ranked()
        )

    def plain(self) -> dict[str, Any]:
        """Return counts and first places as plain values, for JSON."""
        return {key: {"count": count, "first": self.first[key]} for key, count in self.items()}


@dataclass(frozen=True, slots=True)
class Shared:
    """Values that several rows have in common."""

    values: int
    """Number of such values."""
    members: int
    """Number of times that they occur."""
    first: tuple[str, ...]
    """The first few, with where they occur."""


class Place(NamedTuple):
    """Where a value occurs."""

    row: int
    study: str
    split: str
    image: str = ""


class Leak(NamedTuple):
    """What would let a test see training data, or count data twice."""

    kind: str
    """The kind of the value that is equal."""
    differs: str | None
    """The field of `Place` in which the places of the value differ; None for any."""
    what: str = ""
    """What is wrong; "" for no fault: normal reports are often worded alike."""
    grave: bool = False
    """Splits overlap: scores will look better than they are."""


LEAKS = {
    "patients_in_splits": Leak("patient", "split", "patients in more than one split", grave=True),
    "studies_in_splits": Leak("study", "split", "studies in more than one split", grave=True),
    "studies_repeated": Leak("study", None, "studies listed more than once"),
    "pixels_in_splits": Leak("pixels", "split", "equal images in more than one split", grave=True),
    "pixels_in_studies": Leak("pixels", "study", "equal images in more than one study"),
    "pixels_repeated": Leak("pixels", None),
    "captions_repeated": Leak("caption", None),
    "captions_in_splits": Leak("caption", "split"),
}


class LeakageSearch:
    """Looks for equal values among the studies that are kept."""

    def __init__(self) -> None:
        self._places: dict[str, dict[str, list[Place]]] = defaultdict(lambda: defaultdict(list))
        self._rows = 0
        self.studies_with_patient = 0

    def add(self, row: Row) -> None:
        """Note one kept study, a row of the record."""
        self._rows += 1
        place = Place(self._rows, row["study_id"], row["split"] or "no split")
        self._places["study"][row["study_id"]].append(place)
        self._places["caption"][row["caption"]].append(place)
        if row.get("patient_id"):
            self.studies_with_patient += 1
            self._places["patient"][row["patient_id"]].append(place)
        for picture in written_pictures(row):
            if picture["pixels"]:
                self._places["pixels"][picture["pixels"]].append(place._replace(image=picture["image_id"]))

    def result(self) -> dict[str, Shared]:
        """Return what was found of each of `LEAKS`."""
        return {name: self._shared(leak.kind, leak.differs) for name, leak in LEAKS.items()}

    def _shared(self, kind: str, differs: str | None) -> Shared:
        values, members, first = 0, 0, []
        for value, places in self._places[kind].items():
            first_of: dict[object, Place] = {}
            for number, place in enumerate(places):
                first_of.setdefault(getattr(place, differs) if differs else number, place)
            if len(first_of) > 1:
                values, members = values + 1, members + len(places)
                if values <= NAMED:
                    first.append(_describe(kind, value, list(first_of.values())[:NAMED], places))
        return Shared(values, members, tuple(first))


def _describe(kind: str, value: str, named: list[Place], places: list[Place]) -> str:
    """Name a value and where it is found: the places named, or all images of their rows."""
    if kind == "study":
        text = f"study {value}: {', '.join(place.split for place in named)}"
    elif kind == "pixels":
        rows = {place.row for place in named}
        images = (f"{p.image} (study {p.study}, {p.split})" for p in places if p.row in rows)
        text = " = ".join(dict.fromkeys(images))
    else:
        name = f"patient {value}" if kind == "patient" else shorten(value, MAX_CAPTION, placeholder=" …")
        text = f"{name}: " + ", ".join(f"study {place.study} ({place.split})" for place in named)
    # JSON can write halves of characters, and UTF-8 cannot.
    return text.encode("utf-8", "replace").decode()
