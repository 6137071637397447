from __future__ import annotations

from pathlib import Path

import pytest

from xraygpt.common.errors import DataError
from xraygpt.common.files import is_missing, load_json, mistaken_download, read_text


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git-LFS pointer, not the table"),
        (b"\r\n <HTML lang=en>", "a web page, not the table"),
        (b"<?xml version='1.0'?><Error/>", "a web page, not the table"),
    ],
)
def test_mistakes_are_told(head: bytes, message: str) -> None:
    assert str(mistaken_download(head, "the table")).startswith(message)


def test_anything_else_passes() -> None:
    assert mistaken_download(b"a,b\n<html>,2", "the table") is None


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfeffusion\r\n")
    assert read_text(file) == "effusion\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", r"a\.json: not a UTF-8 text file \(invalid start byte at byte 0\)"),
        (b'{"a": ', r"a\.json: not valid JSON: Expecting value at column 7"),
        (b"[" * 100_000, r"a\.json: .*nested too deeply"),
        (b"1" * 6_000, r"a\.json: not readable as JSON"),
    ],
)
def test_json_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_json(file)


@pytest.mark.parametrize("value", [None, "", " ", "nan", "NaN", "NA", "N/A", "<NA>", "NULL", "None"])
def test_missing(value: str | None) -> None:
    assert is_missing(value)


@pytest.mark.parametrize("value", ["0", "p1", "nancy", 0, "unknown"])
def test_not_missing(value: object) -> None:
    assert not is_missing(value)
