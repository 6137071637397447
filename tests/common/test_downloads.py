from __future__ import annotations

import pytest

from xraygpt.common.downloads import mistaken_download


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
