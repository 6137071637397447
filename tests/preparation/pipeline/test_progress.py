"""The progress file: what survives an interruption, and what is refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from xraygpt.common.errors import DataError
from xraygpt.preparation.pipeline.output_folder import Progress, StudyRow

SETTINGS: dict[str, Any] = {"source": "openi", "seed": 0}


def study(name: str, *image_ids: str, file: Path | None = Path("a.png")) -> StudyRow:
    wanted = tuple((image_id, file) for image_id in image_ids)
    return {"study_id": name, "outcome": "kept"}, wanted


def refused(path: Path, message: str, settings: dict[str, Any] = SETTINGS) -> None:
    with pytest.raises(DataError, match=message), Progress.open(path, settings):
        raise AssertionError("it was opened")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "out" / ".preparing").mkdir(parents=True)
    return tmp_path / "out" / ".preparing" / "progress.sqlite"


def test_everything_is_found_again(path: Path) -> None:
    with Progress.open(path, SETTINGS) as progress:
        progress.add_studies([study("s1", "i1", "i2"), study("s2", "i3", file=None)])
        progress.mark_complete("reports")
        progress.add_pictures([{"image_id": "i1", "outcome": "written"}])
    with Progress.open(path, SETTINGS) as progress:
        assert progress.study_count() == 2
        assert [row["study_id"] for _, row in progress.studies()] == ["s1", "s2"]
        assert progress.is_complete("reports")
        assert not progress.is_complete("shards")
        assert progress.pending_count() == 2
        assert list(progress.pending_files()) == [("i2", Path("a.png"))]
        assert progress.pending_ids() == {"i3"}


def test_an_image_belongs_to_the_first_study_that_names_it(path: Path) -> None:
    with Progress.open(path, SETTINGS) as progress:
        progress.add_studies([study("s1", "i1"), study("s2", "i1")])
        progress.add_pictures([{"image_id": "i1", "outcome": "written"}])
        assert progress.picture("i1", 1) == {"image_id": "i1", "outcome": "written"}
        assert progress.picture("i1", 2) is None


def test_a_study_that_is_dropped_later_wants_no_images(path: Path) -> None:
    with Progress.open(path, SETTINGS) as progress:
        progress.add_studies([study("s1", "i1"), study("s2", "i2")])
        progress.replace_study(1, {"study_id": "s1", "outcome": "rejected"})
        assert [row["outcome"] for _, row in progress.studies()] == ["rejected", "kept"]
        assert [image_id for image_id, _ in progress.pending_files()] == ["i2"]


def test_forgotten_images_are_pending_again(path: Path) -> None:
    with Progress.open(path, SETTINGS) as progress:
        progress.add_studies([study("s1", "i1")])
        written = {"image_id": "i1", "outcome": "written", "file": "i1.jpg", "bytes": 3}
        progress.add_pictures([written])
        (path.parent / "i1.jpg").write_bytes(b"abc")
        progress.forget_pictures(path.parent)
        assert progress.pending_count() == 0
        (path.parent / "i1.jpg").write_bytes(b"ab")
        progress.forget_pictures(path.parent)
        assert progress.pending_count() == 1


def test_other_settings_start_again_while_little_is_lost(path: Path) -> None:
    with Progress.open(path, SETTINGS) as progress:
        progress.add_studies([study("s1", "i1")])
    with Progress.open(path, SETTINGS | {"seed": 1}) as progress:
        assert progress.study_count() == 0
        assert progress.pending_count() == 0


def test_other_settings_are_refused_later(path: Path) -> None:
    with Progress.open(path, SETTINGS) as progress:
        progress.mark_complete("reports")
    refused(path, r"out: holds an unfinished preparation.*\n  seed: 0, now 1", SETTINGS | {"seed": 1})


def test_a_second_process_is_refused(path: Path) -> None:
    with Progress.open(path, SETTINGS) as progress:
        progress.add_studies([study("s1", "i1")])
        refused(path, "another preparation")


def test_a_damaged_file_is_named(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    refused(path, r"damaged .*delete .*\.preparing")


def test_tables_of_an_earlier_version_are_not_gone_on_from(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE pictures (image_id TEXT PRIMARY KEY, row TEXT NOT NULL)")
    with (
        pytest.raises(DataError, match=r"damaged .*delete .*\.preparing"),
        Progress.open(path, SETTINGS) as old,
    ):
        old.add_studies([study("s1", "i1")])


def test_a_second_process_is_refused_before_anything_is_written(path: Path) -> None:
    with Progress.open(path, SETTINGS):
        pass
    with Progress.open(path, SETTINGS):
        refused(path, "another preparation")


def test_a_full_disk_is_said_so(path: Path) -> None:
    def fill() -> None:
        with Progress.open(path, SETTINGS) as progress:
            progress._db.execute("PRAGMA max_page_count = 8")
            progress.add_studies(({"study_id": "s" * 5000}, ()) for _ in range(50))

    with pytest.raises(DataError, match=r"progress\.sqlite: cannot be .*written .*full"):
        fill()
    with Progress.open(path, SETTINGS) as progress:
        assert progress.study_count() == 0
