"""Reading the record of a preparation, ``studies.jsonl``: one line for each study or unusable item."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import parse_json

OUTCOMES = ("kept", "dropped", "rejected")
WRITTEN_KEYS = {"width", "height", "original_width", "original_height", "bytes", "pixels"}

Row = dict[str, Any]


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
