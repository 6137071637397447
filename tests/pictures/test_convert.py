"""What a prepared picture is made of: its bytes, its size, its hash; and which files are refused."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.pictures.dicom_files import chest
from xraygpt.pictures import grey
from xraygpt.pictures.convert import PictureConfig, RefusedPictureError, convert_picture, shrink

KEEP = PictureConfig(keep_size=True)
SECRET = "Quillfe"


def scene(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """A smooth grey picture of some width and height."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    return Image.fromarray((255 * (rows + columns) / (sum(size) - 2)).astype(np.uint8))


def file_of(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def refusal(source: Path | bytes) -> RefusedPictureError:
    with pytest.raises(RefusedPictureError) as caught:
        convert_picture(source, "x1", PictureConfig())
    assert str(caught.value).startswith("x1: ")
    return caught.value


@pytest.mark.parametrize(
    ("size", "want"), [((1000, 700), (512, 358)), ((300, 2000), (77, 512)), ((9, 8), (9, 8))]
)
def test_the_longest_side_is_brought_down_never_up(size: tuple[int, int], want: tuple[int, int]) -> None:
    made = convert_picture(file_of(scene(size)), "x1", PictureConfig())
    picture = opened(made.data)
    assert (picture.size, picture.mode, picture.format, made.suffix) == (want, "L", "JPEG", ".jpg")
    assert (made.width, made.height, made.original_width, made.original_height) == (*want, *size)
    reference = scene(size).resize(want, Image.Resampling.BOX)
    assert np.abs(np.asarray(picture, dtype=int) - np.asarray(reference)).mean() < 1.5
    small = convert_picture(file_of(scene(size)), "x1", PictureConfig(longest_side=16))
    assert max(small.width, small.height) == min(16, max(size))


def test_the_result_depends_on_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    path.write_bytes(file_of(scene((800, 600))))
    one = convert_picture(path, "x1", PictureConfig())
    assert one == convert_picture(path.read_bytes(), "x2", PictureConfig())
    assert len(convert_picture(path, "x1", PictureConfig(quality=20)).data) < len(one.data)


def test_a_small_bare_jpeg_is_passed_on() -> None:
    data = file_of(scene(), "JPEG", quality=60)
    assert convert_picture(data, "x1", PictureConfig()).data == data
    assert convert_picture(data, "x1", PictureConfig(longest_side=32)).data != data


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("format", "suffix"), [("JPEG", ".jpg"), ("PNG", ".png")])
def test_keep_size_copies_a_bare_file(mode: str, format: str, suffix: str) -> None:
    data = file_of(scene((700, 40)).convert(mode), format)
    made = convert_picture(data, "x1", KEEP)
    assert (made.data, made.suffix, made.width) == (data, suffix, 700)


def carrying(format: str, what: str) -> bytes:
    """A picture with something about the patient in its file."""
    exif = Image.Exif()
    exif[0x010E] = SECRET
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Patient", SECRET)
    options: dict[str, object] = {
        "exif": {"exif": exif},
        "comment": {"comment": SECRET.encode()},
        "text": {"pnginfo": texts},
        "profile": {"icc_profile": SECRET.encode()},
        "xmp": {"xmp": SECRET.encode()},
        "tail": {},
    }[what]
    return file_of(scene((700, 40)), format, **options) + (SECRET.encode() if what == "tail" else b"")


@pytest.mark.parametrize(
    ("format", "what"),
    [
        *(("JPEG", what) for what in ("exif", "comment", "profile", "xmp", "tail")),
        *(("PNG", what) for what in ("exif", "text", "profile", "tail")),
    ],
)
def test_metadata_does_not_travel(format: str, what: str) -> None:
    data = carrying(format, what)
    assert SECRET.encode() in data or what in ("profile",)  # a PNG's profile is deflated
    kept, small = convert_picture(data, "x1", KEEP), convert_picture(data, "x1", PictureConfig())
    assert kept.suffix == ".png"
    np.testing.assert_array_equal(np.asarray(opened(kept.data)), np.asarray(opened(data).convert("L")))
    for made in (kept, small):
        assert SECRET.encode() not in made.data
        assert set(opened(made.data).info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_of_a_colour_jpeg_the_luminance_is_decoded() -> None:
    colour = Image.merge(
        "RGB", [scene(), scene().rotate(180), scene().transpose(Image.Transpose.FLIP_TOP_BOTTOM)]
    )
    data = file_of(colour, "JPEG", quality=95, comment=b"so that it is written anew")
    got = np.asarray(opened(convert_picture(data, "x1", KEEP).data), dtype=int)
    assert np.abs(got - np.asarray(opened(data).convert("L"))).max() <= 2


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    made = convert_picture(file_of(scene((60, 40)), "PNG", exif=exif), "x1", KEEP)
    want = scene((60, 40)).transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(np.asarray(opened(made.data)), np.asarray(want))
    assert (made.original_width, made.original_height) == (40, 60)


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "RGB", "LA", "RGBA", "I;16", "F"])
def test_any_mode_becomes_8_bit_grey(mode: str) -> None:
    deep = Image.fromarray(np.asarray(scene()).astype(np.uint16) * 200 + 900)
    image = deep if mode == "I;16" else scene().convert(mode)
    made = opened(convert_picture(file_of(image, "TIFF"), "x1", KEEP).data)
    assert made.mode == "L"
    want = image.convert("L") if mode == "1" else scene()
    # A thousandth of the pixels of a deep picture is clipped at either end, here one step of the scene.
    off = 2 if mode not in ("I;16", "F") else 3
    assert np.abs(np.asarray(made, dtype=int) - np.asarray(want)).max() <= off


def test_what_is_transparent_is_black() -> None:
    image = scene().convert("LA")
    image.putalpha(Image.new("L", image.size, 0))
    assert not np.asarray(opened(convert_picture(file_of(image), "x1", KEEP).data)).any()


def test_equal_pixels_have_equal_hashes_whatever_the_file() -> None:
    image = scene((700, 500))
    files = [file_of(image), file_of(image, "TIFF"), file_of(image.convert("RGB")), file_of(image, "BMP")]
    made = [convert_picture(data, "x1", config) for data in files for config in (PictureConfig(), KEEP)]
    assert len({one.pixels for one in made}) == 1
    changed = image.copy()
    changed.putpixel((3, 3), 200)
    turned = Image.fromarray(np.asarray(image).reshape(700, 500))  # same bytes, other sides
    others = [convert_picture(file_of(other), "x1", PictureConfig()).pixels for other in (changed, turned)]
    assert len({made[0].pixels, *others}) == 3


def test_an_inverted_chest_is_noted() -> None:
    inverted = convert_picture(file_of(Image.fromarray(255 - chest())), "x1", KEEP)
    assert "looks inverted" in inverted.notes[0]
    np.testing.assert_array_equal(np.asarray(opened(inverted.data)), 255 - chest())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"%PDF-1.4 no picture", "not a picture"),
        (b"\x08\0", "not a picture"),
        (file_of(scene(), "JPEG")[:-40], "cannot be decoded"),
        (file_of(scene())[:-40], "cannot be decoded"),
        (file_of(scene(), "GIF", save_all=True, append_images=[scene().rotate(90)]), "several pages"),
        (file_of(scene(), "TIFF", save_all=True, append_images=[scene()]), "several pages"),
        (file_of(scene(), "PNG", save_all=True, append_images=[scene().rotate(90)]), "several pages"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ],
)
def test_refused_content(data: bytes, reason: str) -> None:
    assert refusal(data).reason == reason


def test_refused_files(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.png").reason == "no such file"
    assert refusal(tmp_path).reason == "no such file"
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.seek(grey.MAX_FILE_BYTES)
        file.write(b"\0")
    assert refusal(huge).reason == "the file is too large"


@pytest.mark.parametrize("side", [9_500, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    bomb = bytearray(file_of(scene()))
    bomb[16:24] = side.to_bytes(4) * 2  # width and height
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4)
    assert refusal(bytes(bomb)).reason == "too many pixels"


def test_a_refusal_travels_between_processes() -> None:
    error = refusal(b"nothing")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.reason) == (RefusedPictureError, str(error), error.reason)


@pytest.mark.parametrize("settings", [{"longest_side": 8}, {"quality": 0}, {"quality": 100}])
def test_settings_are_checked(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        PictureConfig(**settings)  # type: ignore[arg-type]


def test_neither_torch_nor_pydicom_is_loaded_for_ordinary_files() -> None:
    code = (
        "import sys, io\nfrom PIL import Image\n"
        "from xraygpt.pictures.convert import PictureConfig, convert_picture\n"
        "file = io.BytesIO()\nImage.new('L', (600, 9)).save(file, 'PNG')\n"
        "convert_picture(file.getvalue(), 'x', PictureConfig())\n"
        "assert not {'torch', 'pydicom'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": "."})


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)


@pytest.mark.parametrize("side", [403, 300, 100, 64])
def test_a_smaller_picture_is_close_to_the_mean_of_what_lies_below_each_pixel(side: int) -> None:
    radiograph = chest(403)
    shares = [np.arange(side + 1)[:, None] * 403 / side, np.arange(403)]
    covered = (np.minimum(shares[0][1:], shares[1] + 1) - np.maximum(shares[0][:-1], shares[1])).clip(0)
    want = covered @ radiograph @ covered.T * (side / 403) ** 2
    small = shrink(Image.fromarray(radiograph), side)
    assert np.abs(np.asarray(small, dtype=float) - want).mean() < 1


def test_what_fits_is_left_alone_and_a_thin_picture_keeps_a_line() -> None:
    image = Image.fromarray(noise(40, 30))
    assert shrink(image, 40) is image
    assert shrink(Image.fromarray(noise(900, 1)), 20).size == (20, 1)
