"""Everything that looks at an image file sees the same pixels, and nothing else opens one."""

from __future__ import annotations

import ast
import io
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import xraygpt
from tests.conversation.recorder import Recorder
from tests.pictures.dicom_files import chest, dicom
from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.conversation.chat import Chat
from xraygpt.datasets.datasets.images import LooseImages, ShardedImages
from xraygpt.datasets.datasets.shard_index import Member, Shard, write_index
from xraygpt.demo.session import open_upload
from xraygpt.pictures.convert import PictureConfig, convert_picture
from xraygpt.pictures.reading import PictureFolder, decode_picture, is_image_file, read_image

GREY = chest()


def file_of(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def veiled() -> Image.Image:
    """Grey whose left third is transparent, and bright below."""
    pixels = np.stack([GREY, np.full_like(GREY, 255)], axis=2)
    pixels[:, :32] = (250, 0)
    return Image.fromarray(pixels, "LA")


def two_phone_pictures() -> bytes:
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    return file_of(first, "MPO", save_all=True, append_images=[second], quality=95)


DARK_LEFT = np.where(np.arange(96) < 32, 0, GREY)
DEEP = GREY.astype(np.uint16) * 16
LOW, HIGH = np.quantile(DEEP, (0.001, 0.999), method="inverted_cdf")
STRETCHED = np.clip((DEEP - LOW) / (HIGH - LOW), 0, 1) * 255
FILES: dict[str, tuple[bytes, np.ndarray]] = {
    "plain.png": (file_of(Image.fromarray(GREY)), GREY),
    "plain.jpg": (file_of(Image.fromarray(GREY), "JPEG", quality=95), GREY),
    "phone.jpg": (file_of(Image.fromarray(GREY).rotate(90), "JPEG", quality=95, exif=turned(6)), GREY),
    "upside_down.png": (file_of(Image.fromarray(GREY[::-1, ::-1].copy()), exif=turned(3)), GREY),
    "two_pictures.jpg": (two_phone_pictures(), GREY),
    "veiled.png": (file_of(veiled()), DARK_LEFT),
    "veiled_colours.png": (file_of(veiled().convert("RGBA")), DARK_LEFT),
    "palette.gif": (file_of(Image.fromarray(GREY).convert("RGB").quantize(256), "GIF"), GREY),
    "print.jpg": (file_of(Image.fromarray(GREY).convert("RGB").convert("CMYK"), "JPEG", quality=95), GREY),
    "black_and_white.png": (file_of(Image.fromarray(GREY > 127)), np.where(GREY > 127, 255, 0)),
    "deep.tif": (file_of(Image.fromarray(DEEP), "TIFF"), STRETCHED),
    "dicom.png": (dicom(GREY), GREY),
    "dicom": (dicom(GREY), GREY),
    "png.dcm": (file_of(Image.fromarray(GREY)), GREY),
    "shape.dcm": (dicom(255 - GREY, PresentationLUTShape="INVERSE"), GREY),
}


class Looker(Chat):
    """A chat that keeps what its image processor gets."""

    def __init__(self) -> None:
        super().__init__(Recorder(), self._look)

    def _look(self, image: Image.Image) -> Tensor:
        self.seen = image
        return torch.zeros(3, 2, 2)

    def show(self, image: Any) -> Image.Image:
        self.upload_img(image, self.new_conversation(), [])
        return self.seen


def prepared(file: Path) -> Image.Image:
    content = convert_picture(file, file.name, PictureConfig(keep_size=True)).data
    return Image.open(io.BytesIO(content))


def sharded(file: Path) -> Image.Image:
    data, folder = file.read_bytes(), file.parent / "shards"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "a.tar").write_bytes(b"\0" * 512 + data)
    write_index(folder, [Shard("a.tar", 512 + len(data), "", (Member("x", 512, len(data)),))])
    return ShardedImages(folder).read("x")


def on_a_page(file: Path) -> Image.Image:
    picture = PictureFolder(file.parent)(file.name)
    assert picture is not None
    return picture


WAYS: dict[str, Callable[[Path], Image.Image]] = {
    "preparation": prepared,
    "folder": lambda file: LooseImages(file.parent).read(file.name),
    "shards": sharded,
    "evaluation": on_a_page,
    "demo": open_upload,
    "chat, path": lambda file: Looker().show(file),
    "chat, text": lambda file: Looker().show(str(file)),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("way", WAYS)
def test_the_same_pixels_are_seen_everywhere(tmp_path: Path, way: str, name: str) -> None:
    data, want = FILES[name]
    (tmp_path / name).write_bytes(data)
    image = WAYS[way](tmp_path / name)
    assert image.mode in ("L", "RGB")
    off = np.abs(np.asarray(image.convert("L"), dtype=int) - want)
    assert off.mean() < 2  # JPEG, 256 colours
    assert off.max() < 40
    same = read_image(tmp_path / name)
    assert np.abs(np.asarray(image.convert("L"), dtype=int) - np.asarray(same.convert("L"))).max() <= 1


@pytest.mark.parametrize("name", ["phone.jpg", "veiled.png", "deep.tif", "palette.gif"])
def test_a_pil_image_in_a_chat_is_seen_as_its_file_is(name: str) -> None:
    data, _ = FILES[name]
    seen = Looker().show(Image.open(io.BytesIO(data)))
    assert seen.tobytes() == read_image(data).tobytes()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (dicom(GREY, Modality="CT"), "modality is CT"),
        (dicom(GREY)[:-50], "pixel data are truncated or damaged"),
        (file_of(Image.fromarray(GREY), "GIF", save_all=True, append_images=[veiled()]), "holds 2 pictures"),
        (b"", "the file is empty"),
        (b"some text", "is none of DICOM"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_the_true_reason_is_given_everywhere(tmp_path: Path, way: str, data: bytes, reason: str) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=reason):
        WAYS[way](tmp_path / "a.png")


@pytest.mark.parametrize("way", WAYS)
def test_a_bomb_is_refused_everywhere_before_it_is_decoded(tmp_path: Path, way: str) -> None:
    side = 30_000
    header = b"IHDR" + side.to_bytes(4) * 2 + b"\x10\0\0\0\0"
    bomb = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4) + header + zlib.crc32(header).to_bytes(4)
    (tmp_path / "a.png").write_bytes(bomb + file_of(Image.fromarray(GREY))[33:])
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"pixels"):
        WAYS[way](tmp_path / "a.png")
    assert time.perf_counter() - start < 1.0


def test_a_jpeg_is_decoded_small_on_request_and_turned_then() -> None:
    stored = Image.fromarray(np.kron(GREY, np.ones((8, 16))).astype(np.uint8))
    data = file_of(stored, "JPEG", exif=turned(8), quality=95)
    assert read_image(data, 100).size == (96 * 2, 96 * 4)
    assert read_image(data).size == (96 * 8, 96 * 16)
    assert decode_picture(file_of(stored), "a", decode_size=10).image.size == stored.size


def test_colours_are_kept_but_for_preparation() -> None:
    colours = Image.merge("RGB", [Image.fromarray(pixels) for pixels in (GREY, GREY[::-1], GREY.T)])
    for format in ("PNG", "JPEG"):
        data = file_of(colours, format)
        assert read_image(data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()
        assert decode_picture(data, "a", grey=True).image.mode == "L"


def test_image_files_are_told_by_suffix_or_mark(tmp_path: Path) -> None:
    for name in ("a.PNG", "b.dcm"):
        assert is_image_file(tmp_path / name)
    (tmp_path / "c").write_bytes(dicom(GREY))
    (tmp_path / "d").write_bytes(file_of(Image.fromarray(GREY)))
    assert [is_image_file(tmp_path / name) for name in ("c", "d", "absent")] == [True, False, False]


def test_nothing_else_opens_an_image() -> None:
    root = Path(xraygpt.__file__).parent
    opening = set()
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called.endswith(("Image.open", "dcmread")):
                opening.add(file.relative_to(root).as_posix())
    assert opening == {"pictures/reading.py", "pictures/dicom.py"}


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
