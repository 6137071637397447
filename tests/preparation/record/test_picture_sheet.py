from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from tests.preparation.prepared import picture, study, write_folder
from xraygpt.preparation.pipeline.shards import write_shards
from xraygpt.preparation.record.counts import ShownPicture
from xraygpt.preparation.record.summary_page import picture_tiles


def decode(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_tile_is_a_small_jpeg_with_split_and_view(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    Image.new("L", (800, 400), 200).save(tmp_path / "image" / "a.png")
    (tile,) = picture_tiles(tmp_path, [ShownPicture("a", "train", "PA")])
    assert (tile.image_id, tile.caption) == ("a", "train, PA")
    image = decode(tile.url)
    assert image.size == (256, 128)
    assert image.mode == "L"
    assert image.getpixel((10, 10)) == 200


def test_tiles_come_from_shards_too(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", [study("a", picture("a_1"), picture("a_2"))])
    write_shards(tmp_path / "out", 10**6)
    shown = [ShownPicture("a_2", "train", "")]
    loose = picture_tiles(tmp_path / "out", shown)
    (tmp_path / "out" / "image").rename(tmp_path / "elsewhere")
    assert picture_tiles(tmp_path / "out", shown) == loose
    assert loose[0].caption == "train"
    assert decode(loose[0].url).getpixel((0, 0)) == 1


def test_what_cannot_be_read_is_an_empty_tile(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "a.jpg").write_bytes(b"no image")
    shown = [ShownPicture("a", "train", "PA"), ShownPicture("b", "train", "PA")]
    assert [tile.url for tile in picture_tiles(tmp_path, shown)] == ["", ""]
    assert picture_tiles(tmp_path / "nowhere", shown) == []
