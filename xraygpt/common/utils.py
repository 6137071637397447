"""Small helpers without a better place."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.paths import is_remote, package_root


def now() -> str:
    """Return the local time to the second, e.g. "20240131_235959", as used for job names."""
    return time.strftime("%Y%m%d_%H%M%S")


def is_url(url_or_filename: str) -> bool:
    """Tell whether the text names a remote file rather than a local one."""
    return is_remote(url_or_filename)


def get_abs_path(rel_path: str) -> str:
    """Return where a file of the package lies, e.g. for "configs/models/minigpt4_vicuna.yaml"."""
    return str(package_root() / rel_path)


def load_json(filename: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        MissingFileError: there is no such file.
        DataError: it is not JSON; the message gives line and column.
    """
    path = Path(filename)
    if not path.is_file():
        raise MissingFileError(f"missing file: {path}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: no valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a UTF-8 text file ({error.reason} at byte {error.start})") from error


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def makedir(dir_path: str | Path) -> None:
    """Make a folder and those above it; no error if it exists."""
    Path(dir_path).mkdir(parents=True, exist_ok=True)
