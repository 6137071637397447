"""The folder that a preparation writes: what may lie there before, and where work in progress is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.datasets.datasets.annotations import IMAGE_FOLDER
from xraygpt.datasets.datasets.shard_index import SHARD_FOLDER

WORK_FOLDER = ".preparing"
"""Holds what is needed to go on after an interruption; removed at the end."""
PROGRESS_FILE = "progress.sqlite"
SCRATCH_FOLDER = "scratch"
REPORT_FILE = "preparation.json"


class OutputFolder:
    """A folder that is new, empty, or holds the unfinished or finished work of the same command.

    Args:
        path: the folder.
        settings: what the result depends on, as plain values.

    Raises:
        DataError: it holds something else, or would lead out of itself by a link.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.work = path / WORK_FOLDER
        self.scratch = self.work / SCRATCH_FOLDER
        self.images = path / IMAGE_FOLDER
        if path.exists() and not path.is_dir():
            raise DataError(f"{path}: is a file; name a folder")
        for part in (self.work, self.scratch, self.images, path / SHARD_FOLDER):
            if part.is_symlink():
                raise DataError(f"{part}: is a link that leads out of the folder; remove it")
        self.finished = not self.work.is_dir() and _is_finished(path, settings)
        if not self.finished and not self.work.is_dir() and path.is_dir() and any(path.iterdir()):
            raise DataError(f"{path}: is not empty and no unfinished preparation; name another folder")

    def open(self) -> Path:
        """Make the folders and return the progress file."""
        self.images.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(exist_ok=True)
        return self.work / PROGRESS_FILE

    def clear_scratch(self) -> None:
        """Remove half-written files; only for whoever has the progress file open."""
        if self.scratch.is_dir():
            shutil.rmtree(self.scratch)
        self.scratch.mkdir()

    def close(self) -> None:
        """Remove what was needed to go on."""
        shutil.rmtree(self.work)

    def discard(self) -> None:
        """Remove everything that `open` has made."""
        self.close()
        self.images.rmdir()
        if not any(self.path.iterdir()):
            self.path.rmdir()


def _is_finished(path: Path, settings: dict[str, Any]) -> bool:
    report = path / REPORT_FILE
    if not report.is_file():
        return False
    try:
        stored = json.loads(report.read_text(encoding="utf-8"))["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{report}: damaged ({error}); name another folder") from error
    if stored != settings:
        raise DataError(f"{path}: was prepared with other settings (see {report}); name another folder")
    return True
