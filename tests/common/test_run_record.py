from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.run_record import (
    read_run_seconds,
    remove_run_record,
    write_json,
    write_run_record,
    writing,
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
        read_run_seconds(tmp_path)


def test_cut_off_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"seconds"')
    with pytest.raises(DataError, match=r"run\.json: not valid JSON"):
        read_run_seconds(tmp_path)


def test_what_json_does_not_have_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"score": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, [1])

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.json'"):
        write_json(path, [2])
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "[\n 1\n]\n"


class FullDisk(io.RawIOBase):
    """Takes a few bytes."""

    left = 1000

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)


@pytest.mark.parametrize(
    "write",
    [
        lambda: torch.save({"a": torch.zeros(10_000)}, FullDisk()),
        lambda: save_file({"a": torch.zeros(10)}, "/proc/none.safetensors"),
        lambda: FullDisk().write(bytes(2000)),
    ],
)
def test_the_systems_reason_is_found_behind_what_libraries_raise(write: Callable[[], Any]) -> None:
    with pytest.raises(OSError) as caught, writing("out/b.pth"):  # noqa: PT011
        write()
    assert caught.value.filename == "out/b.pth"
    assert caught.value.strerror in ("No space left on device", "No such file or directory")


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), writing("a"):
        raise ZeroDivisionError
