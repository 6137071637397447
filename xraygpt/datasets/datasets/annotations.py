"""Reading the reference's annotation files.

``{"annotations": [{"image_id": "<file stem>", "caption": "<report>"}, ...]}``. An annotation may carry a
third key, ``"split"``; without it, it belongs to the split ``"train"``, so that the reference's own files
are training data as they are. A fourth, ``"study_id"``, names the examination that the image was taken in;
without it, each image is an examination of its own. Further keys, such as ``"view"``, are for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import load_json
from xraygpt.common.tables import SPLITS as SPLITS
from xraygpt.common.tables import normalise_split as normalise_split

ANNOTATION_FILE = "filter_cap.json"
IMAGE_FOLDER = "image"
"""What lies in the folder of a data set."""
KEYS = ("image_id", "caption", "split", "study_id")
"""Keys of an annotation that mean something here."""
MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class Annotation:
    """One image and its report."""

    image_id: str
    caption: str
    split: str
    study_id: str
    place: str
    """File and index, for messages: ``filter_cap.json: annotations[3]``."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What else the file says of the image (``view``, ``sex``, ...): subgroups of an evaluation."""


def read_annotations(path: Path) -> list[Annotation]:
    """Read one annotation file.

    Raises:
        MissingFileError: no such file.
        DataError: not JSON, or not of the form above; names the file, the index and the key.
    """
    annotations, problems = scan_annotations(path)
    if problems:
        raise DataError(summarise("unusable annotations", problems))
    if not annotations:
        raise DataError(f"{path}: the list of annotations is empty")
    return annotations


def scan_annotations(path: Path) -> tuple[list[Annotation], list[str]]:
    """Return the usable rows of an annotation file and what is wrong with each of the others.

    Raises:
        MissingFileError: no such file.
        DataError: it is not JSON, or holds no list of annotations.
    """
    rows = read_rows(path)
    annotations: list[Annotation] = []
    problems: list[str] = []
    for index, row in enumerate(rows):
        place = f"{path}: annotations[{index}]"
        problem = problem_of(row)
        if problem:
            problems.append(f"{place}: {problem}")
            continue
        split = normalise_split(row.get("split", "train"))
        image_id = str(row["image_id"])
        study_id = str(row.get("study_id", image_id))
        columns = {key: str(value) for key, value in row.items() if key not in KEYS and _is_plain(value)}
        annotations.append(Annotation(image_id, row["caption"], split, study_id, place, columns))
    return annotations, problems


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


def summarise(what: str, problems: Sequence[str]) -> str:
    """Return the number of problems and the first few of them, one a line."""
    lines = "".join(f"\n  {problem}" for problem in problems[:MAX_NAMED])
    more = f"\n  ... and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
    return f"{len(problems)} {what}:{lines}{more}"


def read_rows(path: Path) -> list[Any]:
    """Return the rows of an annotation file as they are there, unchecked (see `problem_of`).

    Raises:
        MissingFileError: no such file.
        DataError: it is not JSON, or holds no list of annotations.
    """
    if not path.is_file():
        raise MissingFileError(
            f"missing file: annotations of a data set\n  expected at: {path} (put it there, or set the data "
            'set\'s build_info.storage)\n  its form:    {"annotations": [{"image_id": ..., "caption": ...}]}'
        )
    content = load_json(path)
    rows = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise DataError(f'{path}: expected an object with a list under the key "annotations"')
    return rows


def problem_of(row: Any) -> str | None:
    """Return what is wrong with a row of an annotation file, or None."""
    if not isinstance(row, dict):
        return f"expected an object, found {type(row).__name__}"
    for key in ("image_id", "caption"):
        if key not in row:
            return f'the key "{key}" is missing (there are: {", ".join(map(str, row)) or "none"})'
    if not isinstance(row["image_id"], str | int) or row["image_id"] == "":
        return f'"image_id" must be a file stem, not {row["image_id"]!r}'
    if not isinstance(row["caption"], str):
        return f'"caption" must be a text, not {row["caption"]!r}'
    if not isinstance(row.get("study_id", ""), str | int):
        return f'"study_id" must be a name or a number, not {row["study_id"]!r}'
    if not isinstance(row.get("split", ""), str):
        return f'"split" must be a text, not {row["split"]!r}'
    return None
