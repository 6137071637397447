"""Tables of text, row by row: CSV and TSV, JSON Lines and JSON, each plain or compressed by gzip.

All are read as they are gone through, in little memory: a table of 377,110 rows, or what a small compressed
file unfolds to, needs none to speak of.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

from xraygpt.common.errors import DataError, MissingFileError, did_you_mean
from xraygpt.common.files import HEAD_BYTES, is_missing, mistaken_download, parse_json, readable_json

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
JSON_ENDINGS = (*JSON_LINES, ".json")
ENDINGS = (*DELIMITERS, *JSON_ENDINGS)
"""Of the files that `read_table` knows; each may be followed by ``.gz``."""

MAX_LINE_BYTES = 16 << 20
"""Longest line, and longest row of a JSON file (in characters)."""
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20
_BLANKS = re.compile(r"[ \t\r\n]*")

SPLITS = ("train", "val", "test")
"""Names of the splits of a data set."""
# MIMIC-CXR says "validate", others "valid"; LAVIS and the configurations here say "val".
_SPLIT_ALIASES = {"valid": "val", "validate": "val", "validation": "val"}


def normalise_split(name: str) -> str:
    """Return the split's name as used here: ``valid``, ``validate`` and ``validation`` are ``val``."""
    return _SPLIT_ALIASES.get(name, name)


class Row(NamedTuple):
    """One row of a table."""

    values: dict[str, str]
    """Column -> text. Of JSON: numbers as they are written there, true and false so called, null as ""."""
    file: Path
    position: str
    """Where it stands in the file: ``line 3`` (its first line, from 1); in a JSON file, from 0, ``row [2]``,
    ``row train[2], image_path[0]``."""
    nested: Mapping[str, str] = {}
    """Columns that are in the row and not in `values`, for what they hold: ``a list`` or ``an object``."""

    def has(self, name: str) -> bool:
        """Tell whether the row has a column, whatever it holds."""
        return name in self.values or name in self.nested

    @property
    def place(self) -> str:
        """File and position, for messages."""
        return f"{self.file}: {self.position}"


def read_table(path: Path, columns: Sequence[str] = (), each: str | None = None) -> Iterator[Row]:
    """Go through the rows of a table.

    A CSV or TSV file begins with the names of its columns; a JSON Lines file has an object in every line; a
    JSON file is a list of objects, or has one under the key ``annotations`` or under the names of splits, as
    R2Gen's annotation files have (``{"train": [...], "val": [...], "test": [...]}``; a row without a
    ``split`` of its own gets that of its list). The text is UTF-8. Lines without any text are passed over. A
    nested value (a list or an object) is left out, unless its column is needed. The file is opened when the
    first row is asked for.

    Args:
        path: the file, called by one of `ENDINGS`, maybe with ``.gz`` after it.
        columns: names of columns that have to be there; in JSON every row needs them.
        each: a column in which a list of texts stands for as many rows that are alike otherwise, such as
            the images of a study.

    Raises:
        MissingFileError: no such file.
        DataError: not such a table, damaged, or without a needed column; names the file and the line.
    """
    ending = _ending(path, ENDINGS)
    if ending not in DELIMITERS:
        for position, value in read_objects(path):
            if each is not None and isinstance(value.get(each), list):
                yield from _object_rows(path, position, value, columns, each)
            else:
                yield _row(path, position, value, columns)
        return
    with _open(path) as file:
        yield from _csv_rows(path, file, DELIMITERS[ending], columns)


def read_objects(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Go through the rows of a JSON Lines or JSON file with all that is in them; see `read_table`.

    Yields:
        Position (`Row.position`) and object.

    Raises:
        MissingFileError, DataError: as `read_table`.
    """
    ending = _ending(path, JSON_ENDINGS)
    with _open(path) as file:
        rows = _json_lines(path, file) if ending in JSON_LINES else _json_elements(path, file)
        for position, value in rows:
            if not isinstance(value, dict):
                raise DataError(f"{path}: {position}: expected an object, found {type(value).__name__}")
            yield position, value


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


def _ending(path: Path, known: Collection[str]) -> str:
    """Return which of the known endings a file has."""
    if not path.is_file():
        kind = "is a folder; name the table in it" if path.is_dir() else "no such file"
        raise MissingFileError(f"{path}: {kind}")
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    if ending not in known:
        raise DataError(f"{path}: not known as a table; one of {', '.join(known)} (or with .gz) is")
    return ending


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


def _lines(path: Path, file: BufferedIOBase) -> Iterator[str]:
    """Decode line by line, so that a message can name the line."""
    for number in itertools.count(1):
        try:
            line = file.readline(MAX_LINE_BYTES)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(
                f"{path}: damaged after line {number - 1} ({error}); download it again"
            ) from error
        if not line:
            return
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
    columns: list[str] | None = None
    while True:
        place = f"line {reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            hint = "it has to name the columns" if columns is None else "is a quotation mark left open?"
            raise DataError(f"{path}: {place}: {error}; {hint}") from error
        if columns is None:
            columns = [name.strip() for name in cells or ()]
            twice = sorted({name for name in columns if columns.count(name) > 1})
            if twice:
                raise DataError(f"{path}: line 1 names columns twice: {', '.join(twice)}")
            check_columns(f"{path}: line 1", columns, needed)
        elif cells is None:
            return
        elif len(cells) == len(columns):
            yield Row(dict(zip(columns, cells, strict=True)), path, place)
        elif cells:
            raise DataError(
                f"{path}: {place} has {len(cells)} values and the table {len(columns)} columns; texts "
                "with a comma or a line end belong in quotation marks"
            )


def _json_lines(path: Path, file: BufferedIOBase) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_lines(path, file), 1):
        if not line.isspace():
            yield f"line {number}", parse_json(line, f"{path}: line {number}")


def _json_elements(path: Path, file: BufferedIOBase) -> Iterator[tuple[str, Any]]:
    text = _JsonStream(path, file)
    found = False
    if text.peek() == "[":
        found = True
        yield from text.elements("")
    elif text.peek() == "{":
        for key in text.entries():
            split = normalise_split(key.lower())
            if text.peek() != "[":
                text.value(f"'{key}'")
                continue
            for position, value in text.elements(key if split in SPLITS else ""):
                if split in SPLITS:
                    yield position, _with_split(f"{path}: {position}", value, split)
                elif key == "annotations":
                    yield position, value
            found |= key == "annotations" or split in SPLITS
    if not found:
        raise DataError(
            f'{path}: expected a list of objects, or one under the key "annotations" or under the names of '
            f"splits ({', '.join(SPLITS)})"
        )
    text.expect_end()


def _with_split(place: str, row: Any, split: str) -> Any:
    """Return a row that knows the split under whose name it stands."""
    if not isinstance(row, Mapping):
        return row
    own = row.get("split")
    if is_missing(own):
        return {**row, "split": split}
    if normalise_split(str(own).strip().lower()) != split:
        raise DataError(f"{place}: stands under '{split}' and says that its split is '{own}'")
    return row


class _JsonStream:
    """The text of a JSON file, decoded piece by piece, so that the whole of it is never held.

    Args:
        path: of the file, for messages.
        file: what to read.

    Raises:
        DataError: by every method, for text that is not JSON, not UTF-8 or damaged, and for values longer
            than `MAX_LINE_BYTES` characters.
    """

    def __init__(self, path: Path, file: BufferedIOBase) -> None:
        self._path, self._file = path, file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._parse = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._ended = False
        self._after = "its beginning"

    def peek(self) -> str:
        """Return the next character that is not blank, without going past it; "" at the end."""
        while True:
            self._at = _BLANKS.match(self._text, self._at).end()  # type: ignore[union-attr]  # always matches
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read(_CHUNK_BYTES):
                return ""

    def elements(self, key: str) -> Iterator[tuple[str, Any]]:
        """Yield position and value of each element of the list that comes next."""
        for number in self._members("[", "]"):
            position = f"row {key}[{number}]"
            yield position, self.value(position)

    def entries(self) -> Iterator[str]:
        """Yield the key of each entry of the object that comes next; whoever asks reads its value."""
        for _ in self._members("{", "}"):
            key = self.value("a key")
            if not isinstance(key, str):
                raise self._error("a key has to be a text")
            self.peek()
            self._take(":")
            yield key

    def value(self, what: str) -> Any:
        """Parse the value that `peek` has come to; `what` it is goes into messages."""
        while True:
            try:
                value, end = self._parse.raw_decode(self._text, self._at)
                problem = ""
            except json.JSONDecodeError as error:
                problem = error.msg  # or only its end has not been read yet
            except (RecursionError, ValueError):
                with readable_json(f"{self._path}: {what}"):
                    raise
            if not problem and (end < len(self._text) or self._ended):  # "12" may go on as "123"
                self._at, self._after = end, what
                return value
            if len(self._text) - self._at > MAX_LINE_BYTES:
                raise DataError(f"{self._path}: {what}: not valid JSON, or too long a value: {problem}")
            if not self._read(max(_CHUNK_BYTES, len(self._text) - self._at)) and problem:
                raise DataError(f"{self._path}: {what}: not valid JSON: {problem}")

    def expect_end(self) -> None:
        """Refuse anything that follows."""
        if self.peek():
            raise self._error("something follows its end")

    def _members(self, opening: str, closing: str) -> Iterator[int]:
        self._take(opening)
        number = 0
        while self.peek() != closing:
            if number:
                self._take(",")
            yield number
            number += 1
        self._at += 1

    def _take(self, mark: str) -> None:
        """Go past a mark that `peek` has come to, on to what follows."""
        if not self._text.startswith(mark, self._at):
            raise self._error(f"expected '{mark}'")
        self._at += 1
        self.peek()

    def _read(self, size: int) -> bool:
        """Decode some more and forget what has been gone through; False at the end of the file."""
        if self._ended:
            return False
        try:
            data = self._file.read(size)
            text = self._decode.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise self._error(f"not UTF-8 ({error.reason}); save it as UTF-8") from error
        except (EOFError, OSError, zlib.error) as error:
            raise self._error(f"damaged ({error}); download it again") from error
        self._ended = not data
        self._text, self._at = self._text[self._at :] + text, 0
        return not self._ended

    def _error(self, problem: str) -> DataError:
        return DataError(f"{self._path}: not valid JSON after {self._after}: {problem}")


def _object_rows(
    path: Path, position: str, value: Mapping[str, Any], needed: Sequence[str], each: str
) -> Iterator[Row]:
    """Yield what an object of a JSON file with a list in its column `each` gives: one row for each text."""
    listed = value[each]
    if all(isinstance(entry, str | int | float) for entry in listed):
        if not listed:
            raise DataError(f"{path}: {position}: '{each}' is an empty list")
        for number, entry in enumerate(listed):
            yield _row(path, f"{position}, {each}[{number}]", {**value, each: entry}, needed)
    else:
        yield _row(path, position, value, needed)


def _row(path: Path, position: str, value: Mapping[Any, Any], needed: Sequence[str]) -> Row:
    if needed:
        check_columns(f"{path}: {position}", value, needed)
    texts: dict[str, str] = {}
    nested: dict[str, str] = {}
    for name, entry in value.items():
        if isinstance(entry, str) and entry.isascii():
            texts[name] = entry
        elif isinstance(entry, list | dict):
            nested[name] = "a list" if isinstance(entry, list) else "an object"
        else:
            texts[name] = _text(entry)
    if name := next((name for name in needed if name in nested), None):
        raise DataError(f"{path}: {position}: '{name}' has to be a text or a number, not {nested[name]}")
    return Row(texts, path, position, nested)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | float):
        return json.dumps(value)
    # JSON can write halves of characters (\ud800) that no file could take.
    return str(value).encode("utf-8", "replace").decode("utf-8")
