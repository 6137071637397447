"""Images in a folder and in shards: found, read, refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.toy import write_dataset
from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.datasets.datasets import images as image_files
from xraygpt.datasets.datasets.images import ImageStore, LooseImages, ShardedImages, open_folder, open_storage
from xraygpt.preparation.pipeline.shards import write_shards


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    folder = write_dataset(tmp_path / "d")
    write_shards(folder, 4096)
    return folder


def stores(storage: Path) -> list[ImageStore]:
    return [open_folder(storage / "image"), open_folder(storage / "shards")]


def test_both_stores_give_the_same_images(storage: Path) -> None:
    loose, sharded = stores(storage)
    assert isinstance(loose, LooseImages)
    assert isinstance(sharded, ShardedImages)
    for index in range(18):
        assert f"x{index}" in loose
        assert f"x{index}" in sharded
        assert loose.read(f"x{index}").tobytes() == sharded.read(f"x{index}").tobytes()
    assert "x18" not in loose
    assert "x18" not in sharded


def test_jpeg_from_a_shard_is_decoded_small_too(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", train=1, val=0, suffix=".jpg")
    Image.new("L", (800, 600)).save(folder / "image" / "x0.jpg")
    write_shards(folder)
    assert [store.read("x0", 64).size for store in stores(folder)] == [(100, 75), (100, 75)]


def test_file_is_found_with_its_suffix_without_it_and_in_folders(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "p1/b.jpeg", "p1/c.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images = LooseImages(tmp_path, (".png", ".jpg", ".jpeg"))
    found = {name: images.find(name) for name in ("a", "a.jpg", "p1/b", "p1/b.jpeg", "p1/c.tif")}
    assert found == {
        "a": tmp_path / "a.png",
        "a.jpg": tmp_path / "a.jpg",
        "p1/b": tmp_path / "p1/b.jpeg",
        "p1/b.jpeg": tmp_path / "p1/b.jpeg",
        "p1/c.tif": tmp_path / "p1/c.tif",
    }


@pytest.mark.parametrize(
    "name", ["../secret", "p1/../../secret", "/secret", "", ".", "p1", "no/b", "a.png/b"]
)
def test_nothing_outside_the_folder_is_found_and_no_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").touch()
    (tmp_path / "images" / "p1").mkdir(parents=True)
    (tmp_path / "images" / "a.png").touch()
    name = str(tmp_path / "secret") if name == "/secret" else name
    images = LooseImages(tmp_path / "images")
    assert name not in images
    with pytest.raises(DataError, match="there is no image"):
        images.read(name)


def test_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be listed"):
        LooseImages(tmp_path).find("a\0/b")


def test_store_goes_to_another_process_and_opens_its_own_files(storage: Path) -> None:
    code = "import hashlib, pickle, sys\n"
    code += "stores = pickle.load(sys.stdin.buffer)\n"
    code += "print(*(hashlib.sha256(store.read('x3').tobytes()).hexdigest() for store in stores))\n"
    code += "assert 'torch' not in sys.modules\n"
    both = stores(storage)
    expected = [hashlib.sha256(store.read("x3").tobytes()).hexdigest() for store in both]
    root = Path(image_files.__file__).parents[3]
    result = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(both), capture_output=True, check=True, cwd=root
    )
    assert result.stdout.decode().split() == expected


def test_no_more_files_are_open_than_allowed(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_OPEN", 2)
    images = ShardedImages(storage / "shards")

    def open_tars() -> int:
        links = (os.path.realpath(entry.path) for entry in os.scandir("/proc/self/fd"))
        return sum(link.startswith(str(storage)) for link in links)

    for index in range(18):
        images.read(f"x{index}")
        assert 1 <= open_tars() <= 2
    del images
    assert open_tars() == 0


def test_image_folder_counts_where_there_are_shards_too(storage: Path) -> None:
    assert isinstance(open_storage(storage), LooseImages)
    (storage / "image").rename(storage / "elsewhere")
    assert isinstance(open_storage(storage), ShardedImages)
    (storage / "shards").rename(storage / "shards elsewhere")
    with pytest.raises(DataError, match=r"no images; they belong there as image/.*shards/"):
        open_storage(storage)


def test_shards_without_index_are_unfinished(storage: Path) -> None:
    (storage / "image").rename(storage / "elsewhere")
    (storage / "shards" / "index.json").unlink()
    with pytest.raises(MissingFileError, match="run its command again"):
        open_storage(storage)


def test_all_damaged_tars_are_named_at_the_start(storage: Path) -> None:
    os.truncate(storage / "shards" / "train-000001.tar", 1000)
    (storage / "shards" / "train-000002.tar").unlink()
    with pytest.raises(DataError, match="2 damaged shards") as caught:
        ShardedImages(storage / "shards")
    assert "train-000001.tar: 1000 bytes, the index says" in str(caught.value)
    assert "train-000002.tar: no such file" in str(caught.value)


def test_damage_after_the_start_is_an_error_that_names_tar_and_image(storage: Path) -> None:
    images = ShardedImages(storage / "shards")
    (storage / "shards" / "train-000000.tar").unlink()
    with pytest.raises(DataError, match=r"train-000000\.tar: x0: cannot be read \("):
        images.read("x0")
    os.truncate(images.folder / "train-000001.tar", 700)
    (image_id, *_) = (row for row in images._rows if "000001" in images.place(row))
    with pytest.raises(DataError, match=rf"train-000001\.tar: {image_id}: cannot be decoded"):
        images.read(image_id)
    with pytest.raises(DataError, match="no image 'x99'"):
        images.read("x99")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('{"version"', '{"version', "damaged"),
        ('"version":1', '"version":2', "version 2"),
        ('"shards"', '"tars"', "key 'shards' is missing"),
        ('"sha256"', '"sha1"', "key 'sha256' is missing"),
        ('"train-000001.tar"', '"../train-000001.tar"', "not the name of a file beside"),
        ('"train-000001.tar"', "7", "damaged"),
        ('["x3",', '["x4",', "x4 is listed twice"),
        ('["x3",', '["x3",9,', "damaged"),
        ('["x3",', '["x3","', "damaged"),
        ('["x3",', '["x3",-', "x3 lies outside"),
        ('["x3",', '["x3",99', "x3 lies outside"),
        ('"samples":', '"samples":9', "images listed of 9"),
    ],
)
def test_damaged_index(storage: Path, old: str, new: str, message: str) -> None:
    path = storage / "shards" / "index.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message) as caught:
        ShardedImages(storage / "shards")
    assert str(path) in str(caught.value)
    path.write_text(json.dumps([1]))
    with pytest.raises(DataError, match="damaged"):
        ShardedImages(storage / "shards")
