"""The folder that a preparation writes: what may lie there before, and work in progress in it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

from xraygpt.common.errors import DataError
from xraygpt.common.files import load_json
from xraygpt.common.run_record import writing
from xraygpt.datasets.datasets.images import IMAGE_FOLDER
from xraygpt.datasets.datasets.shard_index import SHARD_FOLDER
from xraygpt.preparation.pipeline.record import REPORT_FILE, WORK_FOLDER, Row, row_json

PROGRESS_FILE = "progress.sqlite"
TABLES = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS studies (number INTEGER PRIMARY KEY, row TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pictures (image_id TEXT PRIMARY KEY, study INTEGER NOT NULL, file TEXT, row TEXT);
"""

StudyRow = tuple[Row, Sequence[tuple[str, Path | None]]]
"""The record's row of an item of the source, and the images wanted for it: id and file, None where the source
hands out the bytes itself."""


@contextmanager
def new_file(path: Path, work: Path) -> Iterator[BinaryIO]:
    """Open a file to be written that is there in full or not at all; it grows in the folder `work`."""
    growing = work / f"{path.name}.tmp"
    with writing(path):
        with growing.open("wb") as file:
            yield file
        growing.replace(path)


class OutputFolder:
    """A folder that is new, empty, or holds the unfinished or finished work of the same settings.

    Raises:
        DataError: it holds something else, or would lead out of itself by a link.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings
        self.work = path / WORK_FOLDER
        self.images = path / IMAGE_FOLDER
        if path.exists() and not path.is_dir():
            raise DataError(f"{path}: is a file; name a folder")
        for part in (self.work, self.images, path / SHARD_FOLDER):
            if part.is_symlink():
                raise DataError(f"{part}: is a link that leads out of the folder; remove it")
        self.finished = not self.work.is_dir() and _is_finished(path, settings)
        if not self.finished and not self.work.is_dir() and path.is_dir() and any(path.iterdir()):
            raise DataError(f"{path}: is not empty and no unfinished preparation; name another folder")

    def open(self) -> AbstractContextManager[Progress]:
        """Make the folders and open the progress file."""
        self.images.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(exist_ok=True)
        return Progress.open(self.work / PROGRESS_FILE, self.settings)

    def close(self) -> None:
        """Remove what was needed to resume."""
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
        stored = load_json(report)["settings"]
    except (DataError, KeyError, TypeError) as error:
        raise DataError(f"{report}: damaged ({error}); name another folder") from error
    if stored != settings:
        raise DataError(f"{path}: was prepared with other settings (see {report}); name another folder")
    return True


class Progress:
    """What a preparation has done so far, in a SQLite file that survives a killed process.

    A row is written in the same transaction as the fact that it stands for, so that a preparation which is
    started again finds exactly what is left to do, without holding the record in memory.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @classmethod
    @contextmanager
    def open(cls, path: Path, settings: dict[str, Any]) -> Iterator[Self]:
        """Open the file, made if it is not there; it is locked until the end of the `with` block.

        Raises:
            DataError: another process has it open, it was made with other settings (and is past the reports,
                so that starting again would lose hours), it is damaged, or the disk refuses something.
        """
        text = json.dumps(settings, sort_keys=True)
        try:
            with closing(sqlite3.connect(path, timeout=1.0)) as db:
                db.execute("PRAGMA locking_mode = EXCLUSIVE")
                db.executescript(f"BEGIN EXCLUSIVE; {TABLES} COMMIT")  # from here on it is locked
                progress = cls(db)
                stored = progress._value("SELECT value FROM facts WHERE key = 'settings'")
                if stored != text and progress.is_complete("reports"):
                    raise DataError(_changed_settings(path, json.loads(stored), settings))
                if stored != text:
                    with db:  # nothing that takes long has been done yet
                        for table in ("facts", "studies", "pictures"):
                            db.execute(f"DELETE FROM {table}")
                        db.execute("INSERT INTO facts VALUES ('settings', ?)", (text,))
                yield progress
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                problem = f"another preparation is at work in this folder ({error})"
            # SQLITE_ERROR: tables of an earlier version of this program.
            elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
                problem = f"damaged ({error}); delete {path.parent} and start again"
            else:
                problem = f"cannot be read or written ({error})"
            raise DataError(f"{path}: {problem}") from error

    def _value(self, query: str, *values: object) -> Any:
        """Return the first value of what a query finds; None if it finds nothing."""
        found = self._db.execute(query, values).fetchone()
        return None if found is None else found[0]

    def is_complete(self, stage: str) -> bool:
        """Tell whether a stage is complete."""
        return self._value("SELECT 1 FROM facts WHERE key = ?", f"{stage} complete") is not None

    def mark_complete(self, stage: str) -> None:
        """Note that a stage is complete."""
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO facts VALUES (?, '')", (f"{stage} complete",))

    # Studies

    def study_count(self) -> int:
        """Return how many items of the source are done."""
        return int(self._value("SELECT COUNT(*) FROM studies"))

    def add_studies(self, rows: Iterable[StudyRow]) -> None:
        """Append the next items; an image id that an earlier study has taken stays that study's."""
        with self._db:
            for row, wanted in rows:
                number = self._db.execute("INSERT INTO studies (row) VALUES (?)", (row_json(row),)).lastrowid
                self._db.executemany(
                    "INSERT OR IGNORE INTO pictures VALUES (?, ?, ?, NULL)",
                    ((name, number, None if file is None else str(file)) for name, file in wanted),
                )

    def studies(self) -> Iterator[tuple[int, Row]]:
        """Yield (number, row) of all items, in the source's order."""
        for number, text in self._db.execute("SELECT number, row FROM studies ORDER BY number"):
            yield number, json.loads(text)

    def replace_study(self, number: int, row: Row) -> None:
        """Put another row in place of one."""
        with self._db:
            self._db.execute("UPDATE studies SET row = ? WHERE number = ?", (row_json(row), number))
            if row["outcome"] != "kept":
                self._db.execute("DELETE FROM pictures WHERE study = ?", (number,))

    # Pictures

    def pending_count(self) -> int:
        """Return how many images are left."""
        return int(self._value("SELECT COUNT(*) FROM pictures WHERE row IS NULL"))

    def pending_files(self) -> Iterator[tuple[str, Path]]:
        """Yield (image id, file) of the images left that lie in files, in the source's order."""
        query = "SELECT image_id, file FROM pictures WHERE row IS NULL AND file != '' ORDER BY study, rowid"
        for image_id, file in self._db.execute(query):
            yield image_id, Path(file)

    def pending_ids(self) -> frozenset[str]:
        """Return the ids of the images left that the source hands out itself."""
        query = "SELECT image_id FROM pictures WHERE row IS NULL AND file IS NULL"
        return frozenset(image_id for (image_id,) in self._db.execute(query))

    def add_pictures(self, rows: Iterable[Row]) -> None:
        """Note what became of images."""
        with self._db:
            self._db.executemany(
                "UPDATE pictures SET row = ? WHERE image_id = ?",
                ((row_json(row), row["image_id"]) for row in rows),
            )

    def picture(self, image_id: str, study: int) -> Row | None:
        """Return what became of an image; None if it belongs to another study."""
        text = self._value("SELECT row FROM pictures WHERE image_id = ? AND study = ?", image_id, study)
        row: Row | None = None if text is None else json.loads(text)
        return row

    def forget_pictures(self, folder: Path) -> None:
        """Note that images which were written, and are not in `folder` in full, have to be done again."""
        lost: list[tuple[str]] = []
        for (text,) in self._db.execute("SELECT row FROM pictures WHERE row NOT NULL"):
            row = json.loads(text)
            file = folder / row.get("file", "")
            whole = file.is_file() and file.stat().st_size == row["bytes"]
            if row["outcome"] == "written" and not whole:
                lost.append((row["image_id"],))
        with self._db:
            self._db.executemany("UPDATE pictures SET row = NULL WHERE image_id = ?", lost)


def _changed_settings(path: Path, stored: dict[str, Any], settings: dict[str, Any]) -> str:
    pairs = {key: (stored.get(key), settings.get(key)) for key in sorted(stored.keys() | settings.keys())}
    lines = "".join(f"\n  {key}: {old!r}, now {new!r}" for key, (old, new) in pairs.items() if old != new)
    return (
        f"{path.parent.parent}: holds an unfinished preparation with other settings:{lines}\n"
        f"go on with those, name another folder, or delete this one"
    )
