"""What a preparation has done so far, in a SQLite file that survives a killed process.

A row is written in the same transaction as the fact that it stands for, so that a preparation which is
started again finds exactly what is left to do, without holding the record in memory.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from xraygpt.common.errors import DataError

TABLES = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS studies (number INTEGER PRIMARY KEY, row TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS wanted (image_id TEXT PRIMARY KEY, study INTEGER NOT NULL, file TEXT);
CREATE TABLE IF NOT EXISTS pictures (image_id TEXT PRIMARY KEY, row TEXT NOT NULL);
"""


class StudyRow(NamedTuple):
    """What became of one item of a source."""

    row: dict[str, Any]
    """The row of the record."""
    wanted: tuple[tuple[str, Path | None], ...] = ()
    """The images of a study that is kept: id and file, None where the source hands out the bytes itself."""


class Progress:
    """The progress file of one output folder; only one process may have it open.

    Each change is committed as a whole. What the disk refuses comes as a DataError at the end of the `with`
    block.

    Args:
        path: the file, made if it is not there.
        settings: what the result depends on, as plain values.

    Raises:
        DataError: another process has it open, it was made with other settings (and is past the reports, so
            that starting again would lose hours), or it is damaged.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        text = json.dumps(settings, sort_keys=True)
        try:
            self._db = sqlite3.connect(path, timeout=1.0)
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.executescript(f"BEGIN EXCLUSIVE; {TABLES} COMMIT")  # from here on it is locked
            stored = self._settings()
            if stored != text and not self.is_complete("reports"):
                self._start_again(text)
                stored = text
        except sqlite3.Error as error:
            raise self._translated(error) from error
        if stored != text:
            raise DataError(_changed_settings(path, json.loads(stored or "{}"), settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        if isinstance(error, sqlite3.Error):
            raise self._translated(error) from error

    def _translated(self, error: sqlite3.Error) -> DataError:
        code = getattr(error, "sqlite_errorcode", None)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return DataError(f"{self._path}: another preparation is at work in this folder ({error})")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return DataError(f"{self._path}: damaged ({error}); delete {self._path.parent} and start again")
        return DataError(f"{self._path}: cannot be read or written ({error})")

    def _settings(self) -> str | None:
        found = self._db.execute("SELECT value FROM facts WHERE key = 'settings'").fetchone()
        return None if found is None else str(found[0])

    def _start_again(self, settings: str) -> None:
        """Forget everything; nothing that takes long has been done yet."""
        with self._db:
            for table in ("facts", "studies", "wanted", "pictures"):
                self._db.execute(f"DELETE FROM {table}")
            self._db.execute("INSERT INTO facts VALUES ('settings', ?)", (settings,))

    # Studies

    def study_count(self) -> int:
        """Return how many items of the source are done."""
        return int(self._db.execute("SELECT COUNT(*) FROM studies").fetchone()[0])

    def is_complete(self, stage: str) -> bool:
        """Tell whether a stage has come to its end."""
        query = "SELECT 1 FROM facts WHERE key = ?"
        return self._db.execute(query, (f"{stage} complete",)).fetchone() is not None

    def mark_complete(self, stage: str) -> None:
        """Note that a stage has come to its end."""
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO facts VALUES (?, '')", (f"{stage} complete",))

    def add_studies(self, rows: Iterable[StudyRow]) -> None:
        """Append the next items; an image id that an earlier study has taken stays that study's."""
        with self._db:
            for row in rows:
                text = _to_json(row.row)
                number = self._db.execute("INSERT INTO studies (row) VALUES (?)", (text,)).lastrowid
                self._db.executemany(
                    "INSERT OR IGNORE INTO wanted VALUES (?, ?, ?)",
                    (
                        (image_id, number, None if file is None else str(file))
                        for image_id, file in row.wanted
                    ),
                )

    def studies(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (number, row) of all items, in the source's order."""
        for number, text in self._db.execute("SELECT number, row FROM studies ORDER BY number"):
            yield number, json.loads(text)

    def replace_study(self, number: int, row: dict[str, Any]) -> None:
        """Put another row in place of one."""
        with self._db:
            self._db.execute("UPDATE studies SET row = ? WHERE number = ?", (_to_json(row), number))
            if row["outcome"] != "kept":
                self._db.execute("DELETE FROM wanted WHERE study = ?", (number,))

    # Pictures

    def pending_count(self) -> int:
        """Return how many images are left."""
        return int(self._db.execute(f"SELECT COUNT(*) {_PENDING}").fetchone()[0])

    def pending_files(self) -> Iterator[tuple[str, Path]]:
        """Yield (image id, file) of the images left that lie in files, in the source's order."""
        query = f"SELECT wanted.image_id, file {_PENDING} AND file IS NOT NULL ORDER BY study, wanted.rowid"
        for image_id, file in self._db.execute(query):
            yield image_id, Path(file)

    def pending_ids(self) -> frozenset[str]:
        """Return the ids of the images left that the source hands out itself."""
        query = f"SELECT wanted.image_id {_PENDING} AND file IS NULL"
        return frozenset(image_id for (image_id,) in self._db.execute(query))

    def add_pictures(self, rows: Iterable[dict[str, Any]]) -> None:
        """Note what became of images."""
        with self._db:
            self._db.executemany(
                "INSERT OR REPLACE INTO pictures VALUES (?, ?)",
                ((row["image_id"], _to_json(row)) for row in rows),
            )

    def picture(self, image_id: str, study: int) -> dict[str, Any] | None:
        """Return what became of an image; None if it belongs to another study."""
        query = "SELECT study, row FROM wanted JOIN pictures USING (image_id) WHERE image_id = ?"
        found = self._db.execute(query, (image_id,)).fetchone()
        if found is None or found[0] != study:
            return None
        row: dict[str, Any] = json.loads(found[1])
        return row

    def pictures(self) -> Iterator[dict[str, Any]]:
        """Yield what became of every image."""
        for (text,) in self._db.execute("SELECT row FROM pictures"):
            yield json.loads(text)

    def forget_pictures(self, image_ids: Iterable[str]) -> None:
        """Note that images have to be done again."""
        with self._db:
            self._db.executemany("DELETE FROM pictures WHERE image_id = ?", ((i,) for i in image_ids))


_PENDING = "FROM wanted LEFT JOIN pictures USING (image_id) WHERE pictures.row IS NULL"


def _to_json(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)


def _changed_settings(path: Path, stored: dict[str, Any], settings: dict[str, Any]) -> str:
    differing = sorted(key for key in stored.keys() | settings.keys() if stored.get(key) != settings.get(key))
    lines = "".join(f"\n  {key}: {stored.get(key)!r}, now {settings.get(key)!r}" for key in differing)
    return (
        f"{path.parent.parent}: holds an unfinished preparation with other settings:{lines}\n"
        f"go on with those, name another folder, or delete this one"
    )
