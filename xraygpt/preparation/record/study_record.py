"""Reading the record of a preparation, ``studies.jsonl``: one line for each study or unusable item."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError, MissingFileError

OUTCOMES = ("kept", "dropped", "rejected")
WRITTEN_KEYS = {"width", "height", "original_width", "original_height", "bytes", "pixels"}

Row = dict[str, Any]


def read_record(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (offset of the line in bytes, row) of every line.

    Raises:
        MissingFileError: no such file.
        DataError: a line is not JSON, or neither a study nor an unusable item; names the line.
    """
    if not path.is_file():
        raise MissingFileError(f"missing file: the record of a preparation\n  expected at: {path}")
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield offset, _parse(line, f"{path}: line {number}")
            offset += len(line)


def read_rows_at(path: Path, offsets: Iterable[int]) -> dict[int, Row]:
    """Return the rows of the lines that begin at the given offsets."""
    with path.open("rb") as file:
        return {offset: _read_at(file, offset) for offset in sorted(set(offsets))}


def written_pictures(row: Row) -> list[Row]:
    """Return the images that were written for a study; none for one that was not kept."""
    if row["outcome"] != "kept":
        return []
    return [picture for picture in row.get("pictures", ()) if picture.get("outcome") == "written"]


def _read_at(file: Any, offset: int) -> Row:
    file.seek(offset)
    row: Row = json.loads(file.readline())
    return row


def _parse(line: bytes, place: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:  # UnicodeDecodeError is one, too
        raise DataError(f"{place}: not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{place}: expected an object, found {type(row).__name__}")
    problem = _problem_of(row)
    if problem:
        raise DataError(f"{place}: {problem}")
    return row


def _problem_of(row: Row) -> str | None:
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
