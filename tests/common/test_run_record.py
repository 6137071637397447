from __future__ import annotations

from pathlib import Path

import pytest

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.run_record import (
    read_number,
    read_run_seconds,
    remove_run_record,
    write_json,
    write_run_record,
)


def test_seconds_come_back(tmp_path: Path) -> None:
    write_run_record(tmp_path, config="a.yaml", started="2030-01-01T00:00:00", seconds=12.345)
    assert read_run_seconds(tmp_path) == pytest.approx(12.345, abs=0.01)
    remove_run_record(tmp_path)
    with pytest.raises(MissingFileError, match=r"run\.json"):
        read_run_seconds(tmp_path)
    remove_run_record(tmp_path)


@pytest.mark.parametrize("text", ['{"seconds": "long"}', "{}", "[]", '{"seconds": null}'])
def test_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(DataError, match=r"run\.json.*'seconds'"):
        read_number(tmp_path / "run.json", "seconds")


def test_cut_off_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"seconds"')
    with pytest.raises(DataError, match=r"run\.json: not valid JSON"):
        read_number(tmp_path / "run.json", "seconds")


def test_what_json_does_not_have_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"score": float("nan")})
    assert not (tmp_path / "a.json").exists()
