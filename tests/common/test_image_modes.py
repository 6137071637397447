"""Images of any mode become the 8-bit RGB or grey that they show."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from xraygpt.common.image_modes import TURNS, to_8_bit, to_rgb


def picture(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def through_file(image: Image.Image, format: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGB", "RGBA", "CMYK"])
def test_8_bit_modes_become_what_pillow_makes_of_them(mode: str) -> None:
    image = picture(mode)
    assert to_rgb(image).tobytes() == image.convert("RGB").tobytes()
    assert to_8_bit(image).convert("L").tobytes() == image.convert("L").tobytes()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_what_needs_nothing_done_is_returned_itself(mode: str) -> None:
    image = picture(mode)
    assert to_8_bit(image) is image


@pytest.mark.parametrize(
    ("mode", "kept"),
    [("L", "L"), ("RGB", "RGB"), ("F", "L"), ("CMYK", "RGB"), ("LA", "L"), ("1", "L"), ("RGBA", "RGB")],
)
def test_grey_stays_one_channel(mode: str, kept: str) -> None:
    assert to_8_bit(picture(mode)).mode == kept


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("kind", [np.uint16, ">u2", np.int32, np.float32])
def test_more_than_8_bits_are_stretched_to_their_own_range(bits: int, kind: str) -> None:
    ramp = np.linspace(0, 2**bits - 1, 256).round().astype(kind).reshape(16, 16)
    got = np.asarray(to_rgb(Image.fromarray(ramp)))
    assert got.shape == (16, 16, 3)
    np.testing.assert_array_equal(got[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_a_few_outliers_do_not_decide_the_contrast(kind: type) -> None:
    plain = np.linspace(500, 4095, 100 * 100).round().reshape(100, 100).astype(kind)
    marked = plain.copy()
    marked[50, 30:38] = 65_535
    marked[0, :3] = 0
    one, two = (np.asarray(to_8_bit(Image.fromarray(pixels)), dtype=int) for pixels in (plain, marked))
    off = np.abs(one - two)
    assert off[50, 30:38].min() > 100
    off[50, 30:38] = 0
    assert off.max() <= 1
    assert (two[50, 30], two[0, 0]) == (255, 0)


def test_a_blank_picture_with_a_few_specks_shows_them() -> None:
    pixels = np.full((100, 100), 900, dtype=np.uint16)
    assert not np.asarray(to_rgb(Image.fromarray(pixels))).any()
    pixels[3, 3] = 1000
    assert np.asarray(to_8_bit(Image.fromarray(pixels)))[3, 3] == 255


def test_what_is_not_a_number_is_black() -> None:
    pixels = np.array([[np.nan, 1.0, 3.0], [-np.inf, 2.0, np.inf]], dtype=np.float32)
    np.testing.assert_array_equal(np.asarray(to_8_bit(Image.fromarray(pixels))), [[0, 0, 255], [0, 128, 0]])
    assert not np.asarray(to_8_bit(Image.fromarray(pixels[:, :1]))).any()
    assert not np.asarray(to_8_bit(Image.fromarray(np.full((2, 2), np.nan, np.float32)))).any()


def test_a_16_bit_tiff_whose_white_is_zero_is_turned_round_as_8_bit_ones_are() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for pixels in (grey, grey.astype(np.uint16) * 257):
        stored = (
            pixels.max() - pixels if pixels.dtype == np.uint16 else pixels
        )  # Pillow writes 8 bits inverted
        image = through_file(Image.fromarray(stored), "TIFF", tiffinfo={262: 0})
        np.testing.assert_array_equal(np.asarray(to_8_bit(image)), grey)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_transparent_picture_lies_on_black(mode: str) -> None:
    image = picture("RGB").convert(mode)
    alpha = Image.linear_gradient("L").resize(image.size)
    image.putalpha(alpha)
    got = np.asarray(to_rgb(image), dtype=float)
    want = np.asarray(picture("RGB").convert(mode).convert("RGB"), dtype=float)
    assert np.abs(got - want * np.asarray(alpha)[..., None] / 255).max() <= 1


@pytest.mark.parametrize(("mode", "hidden"), [("L", 200), ("RGB", (9, 200, 30)), ("P", 1)])
def test_a_colour_that_a_file_declares_transparent_is_black(mode: str, hidden: object) -> None:
    image = Image.new(mode, (6, 4), hidden)
    if mode == "P":
        image.putpalette([0, 0, 0, 250, 250, 250])
    image = through_file(image, "PNG", transparency=hidden)
    assert not np.asarray(to_8_bit(image)).any()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_the_exif_orientation_is_applied_once(format: str, orientation: int) -> None:
    upright = np.kron(np.arange(15).reshape(3, 5) * 17, np.ones((16, 16))).astype(np.uint8)
    stored = Image.fromarray(upright)
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}.get(orientation)
    turn = TURNS.get(orientation) if back is None else back  # all but quarter turns undo themselves
    if turn is not None:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = through_file(stored if format != "WEBP" else stored.convert("RGB"), format, exif=exif)
    shown = to_8_bit(image)
    assert np.abs(np.asarray(shown.convert("L"), dtype=int) - upright).max() <= 8
    for again in (shown, shown.copy(), shown.convert("RGB")):
        assert to_8_bit(again).tobytes() == again.tobytes()


def test_deep_and_transparent_pictures_are_turned_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    deep = Image.fromarray((np.arange(256, dtype=np.uint16) * 200).reshape(16, 16))
    shown = to_8_bit(through_file(deep, "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(shown).ravel(), np.arange(255, -1, -1))
    faint = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).convert("LA")
    shown = to_8_bit(through_file(faint, "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(shown).ravel(), np.arange(15, -1, -1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_say_nothing() -> None:
    image = picture("L")
    image.info["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"
    assert to_8_bit(image).tobytes() == image.tobytes()
