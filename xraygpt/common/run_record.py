"""``run.json``: what a program leaves in its output folder about itself, wall time above all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xraygpt.common.command_line import typed_command
from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import load_json

RUN_FILE = "run.json"


def write_run_record(folder: Path, *, config: str, started: str, seconds: float) -> None:
    """Write ``run.json``.

    Args:
        config: the YAML file of the run.
        started: local time, ISO 8601.
        seconds: wall time from the start of the program to its end.
    """
    record = {"command": typed_command(), "config": config, "started": started}
    write_json(folder / RUN_FILE, record | {"seconds": round(seconds, 2)})


def remove_run_record(folder: Path) -> None:
    """Remove the record of an earlier run, which must not stand for one that was stopped."""
    (folder / RUN_FILE).unlink(missing_ok=True)


def read_run_seconds(folder: Path) -> float:
    """Return the wall time of the run in `folder`.

    Raises:
        MissingFileError: no run has come to its end there.
        DataError: the file is damaged.
    """
    return float(read_number(folder / RUN_FILE, "seconds"))


def read_number(path: Path, key: str) -> float:
    """Return one number of a JSON object that a run has written.

    Raises:
        MissingFileError, DataError: the file is absent; it is damaged or has no such number.
    """
    try:
        return float(read_json(path)[key])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: it should hold a number under the key '{key}'") from error


def read_json(path: Path) -> Any:
    """Return what a run has written as JSON.

    Raises:
        MissingFileError, DataError: the file is absent; it is damaged.
    """
    if not path.is_file():
        raise MissingFileError(f"missing file: {path}\n  comes from:  the run whose output folder this is")
    return load_json(path)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON; a ValueError is raised for NaN, which JSON does not have."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
