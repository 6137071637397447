"""The files that a program leaves, written whole or not at all; ``run.json``, its record of itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from xraygpt.common.command_line import typed_command
from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import load_json
from xraygpt.common.paths import package_root

RUN_FILE = "run.json"


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever a full disk or a lost permission raises while `path` is written into one OSError.

    A write to an open file names no file, `torch.save` complains about a position in its archive, and
    safetensors about a number in a text.

    Raises:
        OSError: the operating system's reason, and `path`.
    """
    try:
        yield
    except Exception as error:
        reason = _system_error(error)
        if reason is None:
            raise
        raise OSError(reason, os.strerror(reason), os.fspath(path)) from error


def _system_error(error: BaseException | None) -> int | None:
    """Return the operating system's number of the error behind an exception; None if there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if match := re.search(r"\(os error (\d+)\)", str(error)):
            return int(match[1])
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` once it is whole: a reader sees the old one or the new one.

    It has a temporary name in the same folder and is flushed to the disk before it is renamed.

    Raises:
        OSError: the disk is full, or `path` may not be written; the old file is unchanged.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable; not every file system can flush a folder, which is no error."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Write a text file in UTF-8, whole or not at all (see `replacing`)."""
    with replacing(path) as file:
        file.write(text.encode(errors=errors))


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON (see `write_text`); NaN, which JSON does not have, is a ValueError."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return what a run has written as JSON.

    Raises:
        MissingFileError, DataError: the file is absent; it is damaged.
    """
    if not path.is_file():
        raise MissingFileError(f"missing file: {path}\n  comes from:  the run whose output folder this is")
    return load_json(path)


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
    path = folder / RUN_FILE
    try:
        return float(read_json(path)["seconds"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: it should hold a number under the key 'seconds'") from error


def git_hash() -> str | None:
    """Return the commit that the code comes from; None when it is no checkout."""
    root = package_root().parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
