"""What may lie in the folder that a preparation is to write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xraygpt.common.errors import DataError
from xraygpt.preparation.pipeline.output_folder import OutputFolder, new_file

SETTINGS = {"source": "openi"}


def test_a_new_folder_is_made_and_cleared_of_work(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "a" / "out", SETTINGS)
    assert not folder.finished
    with folder.open():
        assert (tmp_path / "a" / "out" / ".preparing").is_dir()
        (folder.work / "half written").touch()
    folder.close()
    assert [path.name for path in folder.path.iterdir()] == ["image"]


def test_other_content_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="not empty"):
        OutputFolder(tmp_path, SETTINGS)
    with pytest.raises(DataError, match="is a file"):
        OutputFolder(tmp_path / "notes.txt", SETTINGS)


@pytest.mark.parametrize("link", ["image", "shards", ".preparing"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, link: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="link"):
        OutputFolder(tmp_path / "out", SETTINGS)


def test_a_finished_folder_is_known_by_its_settings(tmp_path: Path) -> None:
    (tmp_path / "preparation.json").write_text(json.dumps({"settings": SETTINGS}))
    assert OutputFolder(tmp_path, SETTINGS).finished
    with pytest.raises(DataError, match="other settings"):
        OutputFolder(tmp_path, {"source": "folder"})
    (tmp_path / "preparation.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        OutputFolder(tmp_path, SETTINGS)


def test_unfinished_work_goes_on(tmp_path: Path) -> None:
    with OutputFolder(tmp_path, SETTINGS).open():
        pass
    (tmp_path / "preparation.json").write_text(json.dumps({"settings": SETTINGS}))
    assert not OutputFolder(tmp_path, SETTINGS).finished


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk_leaves_the_old_file_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "studies.jsonl"
    path.write_text("old")
    (tmp_path / "studies.jsonl.tmp").symlink_to("/dev/full")

    def write() -> None:
        with new_file(path, tmp_path) as file:
            file.write(b"new")

    with pytest.raises(OSError, match="No space left") as caught:
        write()
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
