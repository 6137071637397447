from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.evaluation.page.picture_folder import PictureFolder


def test_pictures_by_name(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    Image.new("L", (4, 2), 7).save(tmp_path / "deep/a.png")
    Image.new("I;16", (3, 3)).save(tmp_path / "b.PNG")
    pictures = PictureFolder(tmp_path)
    for name in ("a", "a.png", "deep/a", "deep/a.png"):
        picture = pictures(name)
        assert picture is not None
        assert (picture.size, picture.getpixel((0, 0))) == ((4, 2), 7)
    deep = pictures("b")
    assert deep is not None
    assert deep.mode == "L"
    assert pictures("c") is None


def test_folders_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such folder"):
        PictureFolder(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no picture"):
        PictureFolder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png: is none of DICOM, JPEG"):
        PictureFolder(tmp_path)("a")
