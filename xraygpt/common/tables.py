"""Tables of text, row by row: CSV and TSV, JSON Lines and JSON, each plain or compressed by gzip.

CSV, TSV and JSON Lines are read as they are gone through; a table of 377,110 rows needs no memory to speak
of. A JSON file is read as a whole.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

from xraygpt.common.errors import DataError, MissingFileError, did_you_mean
from xraygpt.common.files import HEAD_BYTES, mistaken_download, parse_json

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
ENDINGS = (*DELIMITERS, *JSON_LINES, ".json")
"""Of the files that `read_table` knows; each may be followed by ``.gz``."""

MAX_LINE_BYTES = 16 << 20
MAX_JSON_BYTES = 2 << 30
_GZIP_MAGIC = b"\x1f\x8b"


class Row(NamedTuple):
    """One row of a table."""

    values: dict[str, str]
    """Column -> text. Of JSON: numbers as they are written there, true and false so called, null as ""."""
    file: Path
    number: int
    """Of its first line, from 1; in a JSON file its index, from 0."""

    @property
    def position(self) -> str:
        """Where it stands in the file: ``line 3``."""
        return f"row [{self.number}]" if _ending(self.file) == ".json" else f"line {self.number}"

    @property
    def place(self) -> str:
        """File and position, for messages."""
        return f"{self.file}: {self.position}"


def read_table(path: Path, columns: Sequence[str] = ()) -> Iterator[Row]:
    """Go through the rows of a table.

    A CSV or TSV file begins with the names of its columns; a JSON Lines file has an object in every line; a
    JSON file is a list of objects, or has one under the key ``annotations``. The text is UTF-8. Lines
    without any text are passed over. A nested value (a list or an object) is left out, unless its column is
    needed. The file is opened when the first row is asked for.

    Args:
        path: the file, called by one of `ENDINGS`, maybe with ``.gz`` after it.
        columns: names of columns that have to be there; in JSON every row needs them.

    Raises:
        MissingFileError: no such file.
        DataError: not such a table, damaged, or without a needed column; names the file and the line.
    """
    if not path.is_file():
        kind = "is a folder; name the table in it" if path.is_dir() else "no such file"
        raise MissingFileError(f"{path}: {kind}")
    ending = _ending(path)
    if ending not in ENDINGS:
        raise DataError(f"{path}: not known as a table; one of {', '.join(ENDINGS)} (or with .gz) is")
    with _open(path) as file:
        if ending in DELIMITERS:
            yield from _csv_rows(path, file, DELIMITERS[ending], columns)
        elif ending in JSON_LINES:
            yield from _json_lines(path, file, columns)
        else:
            yield from _json_rows(path, file, columns)


def check_columns(place: str, columns: Collection[str], needed: Iterable[str]) -> None:
    """Raise a DataError if needed columns are not among those that there are."""
    missing = [name for name in needed if name not in columns]
    if missing:
        named = ", ".join(f"'{name}'{did_you_mean(name, columns).rstrip('.')}" for name in missing)
        only = next(iter(columns), "") if len(columns) == 1 else ""
        hint = "; separate them by commas, not by ';'" if ";" in only else ""
        raise DataError(
            f"{place}: columns are missing: {named} (there are: {', '.join(columns) or 'none'}){hint}"
        )


def _ending(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _open(path: Path) -> BufferedIOBase:
    """Open the file, decompressed if it begins like gzip, whatever it is called."""
    with path.open("rb") as raw:
        head = raw.read(HEAD_BYTES)
    problem = mistaken_download(head, "a table")
    if problem:
        raise DataError(f"{path}: {problem}")
    if head.startswith(_GZIP_MAGIC):
        return gzip.open(path, "rb")
    if path.suffix.lower() == ".gz":
        raise DataError(f"{path}: is called .gz and is not compressed by gzip; rename it")
    return path.open("rb")


def _guarded(path: Path, read: Callable[[], bytes], line: int) -> bytes:
    """Return ``read()``, damage of the compressed stream as a DataError."""
    try:
        return read()
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: damaged after line {line} ({error}); download it again") from error


def _lines(path: Path, file: BufferedIOBase) -> Iterator[str]:
    """Decode line by line, so that a message can name the line."""
    number = 0
    while line := _guarded(path, lambda: file.readline(MAX_LINE_BYTES), number):
        number += 1
        if len(line) == MAX_LINE_BYTES:
            raise DataError(f"{path}: line {number} is longer than {MAX_LINE_BYTES >> 20} MiB; not a table")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: line {number} is not UTF-8 ({error.reason} at byte {error.start} of the line); "
                "save the table as UTF-8"
            ) from error


def _csv_rows(path: Path, file: BufferedIOBase, delimiter: str, needed: Sequence[str]) -> Iterator[Row]:
    reader = csv.reader(_lines(path, file), delimiter=delimiter, strict=True)
    columns = _header(path, reader, needed)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}: line {number}: {error}; is a quotation mark left open?") from error
        if cells is None:
            return
        if len(cells) == len(columns):
            yield Row(dict(zip(columns, cells, strict=True)), path, number)
        elif cells:
            raise DataError(
                f"{path}: line {number} has {len(cells)} values and the table {len(columns)} columns; texts "
                "with a comma or a line end belong in quotation marks"
            )


def _header(path: Path, reader: Iterator[list[str]], needed: Sequence[str]) -> list[str]:
    try:
        columns = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise DataError(f"{path}: line 1: {error}; it has to name the columns") from error
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise DataError(f"{path}: line 1 names columns twice: {', '.join(twice)}")
    check_columns(f"{path}: line 1", columns, needed)
    return columns


def _json_lines(path: Path, file: BufferedIOBase, needed: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(_lines(path, file), 1):
        if not line.isspace():
            row = Row({}, path, number)
            yield row._replace(values=_texts(row.place, parse_json(line, row.place), needed))


def _json_rows(path: Path, file: BufferedIOBase, needed: Sequence[str]) -> Iterator[Row]:
    content = _guarded(path, lambda: file.read(MAX_JSON_BYTES), 0)
    if len(content) == MAX_JSON_BYTES:
        raise DataError(f"{path}: too large to be read as a whole; save it as JSON Lines (.jsonl)")
    rows = parse_json(content, str(path))
    if isinstance(rows, Mapping):
        rows = rows.get("annotations")
    if not isinstance(rows, list):
        raise DataError(f'{path}: expected a list of objects, or one under the key "annotations"')
    for number, value in enumerate(rows):
        row = Row({}, path, number)
        yield row._replace(values=_texts(row.place, value, needed))


def _texts(place: str, value: Any, needed: Sequence[str]) -> dict[str, str]:
    """Return an object's values as text."""
    if not isinstance(value, Mapping):
        raise DataError(f"{place}: expected an object, found {type(value).__name__}")
    check_columns(place, value, needed)
    nested = [name for name, entry in value.items() if isinstance(entry, list | dict)]
    unusable = [name for name in nested if name in needed]
    if unusable:
        raise DataError(f"{place}: '{unusable[0]}' has to be a text or a number, not a list or an object")
    return {name: _text(entry) for name, entry in value.items() if name not in nested}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | float):
        return json.dumps(value)
    # JSON can write halves of characters (\ud800) that no file could take.
    return str(value).encode("utf-8", "replace").decode("utf-8")
