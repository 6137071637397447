"""Published splits: a file that says which study or image belongs to which."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.common.files import is_missing, load_json
from xraygpt.common.tables import check_columns, read_table
from xraygpt.datasets.datasets.annotations import SPLITS, normalise_split, summarise
from xraygpt.preparation.sources.names import stem

ID_COLUMNS = ("study_id", "image_id", "id", "uid", "dicom_id")
"""Columns or keys that name what belongs to a split; the first that is there."""
NOT_NAMED = "not in the split file"


def read_splits(path: Path) -> dict[str, str]:
    """Read a split file.

    Either a JSON object ``{"train": [...], "val": [...], "test": [...]}`` of ids or of objects with one of
    `ID_COLUMNS` (R2Gen's ``annotation.json`` has this form), or a table (see `read_table`) with a column
    ``split`` and one of `ID_COLUMNS`. ``valid``, ``validate`` and ``validation`` are ``val``. An id may be
    given as the name of an image file.

    Returns:
        study or image id -> ``train``, ``val`` or ``test``.

    Raises:
        MissingFileError, DataError: no such file, not of such a form, an unknown split, an id in two of
            them, or no id at all.
    """
    splits: dict[str, str] = {}
    problems: list[str] = []
    for place, name, label in _entries(path):
        split = normalise_split(label.strip().lower())
        name = stem(name.strip())
        if split not in SPLITS:
            problems.append(f"{place}: '{label}' is none of {', '.join(SPLITS)}")
        elif is_missing(name):
            problems.append(f"{place}: no id")
        elif splits.setdefault(name, split) != split:
            problems.append(f"{place}: {name} is in {splits[name]} and in {split}")
    if problems:
        raise DataError(f"{path}: {summarise('entries of the split file are wrong', problems)}")
    if not splits:
        raise DataError(f"{path}: the split file names nothing")
    return splits


def assign_splits(splits: Mapping[str, str], names: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Return study id -> split, for the studies that `splits` names.

    Args:
        splits: as from `read_splits`.
        names: study id -> all names that the split file may use for it.

    Raises:
        DataError: a study is in two splits, or none is in any.
    """
    assigned: dict[str, str] = {}
    torn: list[str] = []
    for study_id, known in names.items():
        found = sorted({splits[name] for name in known if name in splits})
        if len(found) > 1:
            torn.append(f"{study_id}: {', '.join(found)}")
        elif found:
            assigned[study_id] = found[0]
    if torn:
        raise DataError(summarise("studies are in more than one split of the split file", torn))
    if not assigned:
        raise DataError(
            f"the split file names none of the {len(names)} studies; its ids are such as "
            f"'{next(iter(splits))}', the studies are called such as '{next(iter(names), '')}'"
        )
    return assigned


def _entries(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (place, id, split as written)."""
    content = _json_object(path)
    if content is not None:
        for label, entries in content.items():
            if not isinstance(entries, list):
                raise DataError(f"{path}: '{label}' has to be a list of ids")
            for number, entry in enumerate(entries):
                place = f"{path}: {label}[{number}]"
                yield place, _id_of(place, entry), label
        return
    column = ""
    for row in read_table(path, ("split",)):
        if not column:
            column = next((name for name in ID_COLUMNS if name in row.values), ID_COLUMNS[0])
        check_columns(row.place, row.values, (column,))
        yield row.place, row.values[column], row.values["split"]


def _json_object(path: Path) -> dict[str, Any] | None:
    """Return the object in a ``.json`` file; None if it is a table."""
    if path.suffix.lower() != ".json":
        return None
    content = load_json(path)
    return content if isinstance(content, dict) and "annotations" not in content else None


def _id_of(place: str, entry: object) -> str:
    if isinstance(entry, Mapping):
        entry = next((entry[name] for name in ID_COLUMNS if name in entry), None)
    if isinstance(entry, bool) or not isinstance(entry, str | int):
        raise DataError(f"{place}: expected an id, or an object with one of {', '.join(ID_COLUMNS)}")
    return str(entry)
