import re
from pathlib import Path

import pytest

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.utils import get_abs_path, is_url, load_json, makedir, now


def test_now_keeps_every_digit() -> None:
    assert re.fullmatch(r"\d{8}_\d{6}", now())


def test_is_url() -> None:
    assert is_url("https://example.org/a")
    assert not is_url("weights/a.pth")


def test_get_abs_path() -> None:
    assert Path(get_abs_path("common/utils.py")).is_file()


def test_makedir_twice(tmp_path: Path) -> None:
    makedir(tmp_path / "a/b")
    makedir(tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir()


def test_load_json(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"ä": [1]}', encoding="utf-8")
    assert load_json(file) == {"ä": [1]}
    file.write_text('{"a":\n [1,}')
    with pytest.raises(DataError, match=r"a\.json.*line 2, column 5"):
        load_json(file)
    file.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DataError, match=r"a\.json.*byte 7"):
        load_json(file)
    with pytest.raises(MissingFileError, match=r"b\.json"):
        load_json(tmp_path / "b.json")
