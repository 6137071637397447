"""Text and JSON files as people have them, hashes, and what lands under the name of a download by mistake."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError, MissingFileError

HEAD_BYTES = 512
"""How much of a file `mistaken_download` wants to see."""

_LFS_HEADER = b"version https://git-lfs.github.com/spec/"
_HTML_START = re.compile(rb"^\s*(<!doctype html|<html|<\?xml)", re.IGNORECASE)


def mistaken_download(head: bytes, what: str) -> str | None:
    """Say what is wrong with a file that begins with `head`, and what to do; None if it looks like neither.

    Args:
        head: the first `HEAD_BYTES` of the file.
        what: what it ought to be, e.g. "the weights".
    """
    if not head:
        return "the file is empty."
    if head.startswith(_LFS_HEADER):
        return (
            f"a Git-LFS pointer, not {what}. Fetch the file itself with `git lfs pull` in the folder it came "
            "from, or download it from its page."
        )
    if _HTML_START.match(head):
        return (
            f"a web page, not {what} (a download link often answers with a page to confirm or to log in). "
            "Download it again and check that its size is the expected one."
        )
    return None


def read_text(path: Path) -> str:
    """Read a UTF-8 text file; a byte order mark, as Windows programs write it, is not part of the text.

    Raises:
        MissingFileError: there is no such file.
        DataError: it is not UTF-8.
    """
    if not path.is_file():
        raise MissingFileError(f"missing file: {path}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not a UTF-8 text file ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


@contextmanager
def readable_json(place: str) -> Iterator[None]:
    """Turn what the parser of JSON raises into a DataError that begins with `place`."""
    try:
        yield
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in error.doc.strip() else ""  # else `place` names it
        raise DataError(f"{place}: not valid JSON: {error.msg} at {line}column {error.colno}") from error
    except RecursionError as error:
        raise DataError(f"{place}: not readable: its JSON is nested too deeply") from error
    except ValueError as error:  # whole numbers of thousands of digits, and bytes that are not UTF-8
        raise DataError(f"{place}: not readable as JSON ({error})") from error


def parse_json(text: str | bytes, place: str) -> Any:
    """Parse JSON from anywhere.

    Raises:
        DataError: it is not JSON, is nested too deeply, or holds a number too long to be one; begins with
            `place`.
    """
    with readable_json(place):
        return json.loads(text)


def load_json(path: str | Path) -> Any:
    """Read a JSON file (see `read_text`, `parse_json`)."""
    return parse_json(read_text(Path(path)), str(path))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_MISSING = frozenset({"", "nan", "na", "n/a", "<na>", "null", "none"})
_LONGEST = max(map(len, _MISSING))


def is_missing(value: object) -> bool:
    """Tell whether a cell that should hold an id, a split or another name holds none.

    That is None, blank text, or what pandas, R and SQL write for a missing value (``nan``, ``NA``, ``<NA>``,
    ``NULL``, ``None``, in any case). The one definition for every table and annotation file.
    """
    if isinstance(value, str) and len(value) > _LONGEST and not (value[0].isspace() or value[-1].isspace()):
        return False  # most texts: reports are long
    return value is None or str(value).strip().lower() in _MISSING
