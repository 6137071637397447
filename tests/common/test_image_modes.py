"""Images of any mode become 8-bit RGB or grey."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from xraygpt.common.image_modes import to_8_bit, to_grey, to_rgb


def picture(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK"])
def test_8_bit_modes_become_what_pillow_makes_of_them(mode: str) -> None:
    image = picture(mode)
    assert to_rgb(image).tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_16_bit_grey_is_stretched_to_its_own_range(bits: int) -> None:
    ramp = np.linspace(0, 2**bits - 1, 256).round().astype(np.uint16).reshape(16, 16)
    got = np.asarray(to_rgb(Image.fromarray(ramp)))
    assert got.shape == (16, 16, 3)
    np.testing.assert_array_equal(got[..., 0].ravel(), np.arange(256))


def test_constant_16_bit_image_is_black() -> None:
    assert np.asarray(to_rgb(Image.fromarray(np.full((4, 4), 900, dtype=np.uint16)))).max() == 0


@pytest.mark.parametrize(
    ("mode", "kept"), [("L", "L"), ("RGB", "RGB"), ("F", "L"), ("CMYK", "RGB"), ("LA", "RGB")]
)
def test_grey_stays_one_channel(mode: str, kept: str) -> None:
    assert to_8_bit(picture(mode)).mode == kept


def test_what_is_not_a_number_is_black() -> None:
    pixels = np.array([[np.nan, 1.0, 3.0], [-np.inf, 2.0, np.inf]], dtype=np.float32)
    np.testing.assert_array_equal(np.asarray(to_grey(Image.fromarray(pixels))), [[0, 0, 255], [0, 128, 0]])
    assert not np.asarray(to_grey(Image.fromarray(pixels[:, :1]))).any()


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB", "CMYK"])
def test_grey_is_the_luminance(mode: str) -> None:
    image = picture(mode)
    assert to_grey(image).tobytes() == image.convert("L").tobytes()


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_grey_of_a_transparent_picture_lies_on_black(mode: str) -> None:
    image = picture("RGB").convert(mode)
    alpha = Image.linear_gradient("L").resize(image.size)
    image.putalpha(alpha)
    got = np.asarray(to_grey(image), dtype=float)
    want = np.asarray(picture("RGB").convert("L"), dtype=float) * np.asarray(alpha) / 255
    assert np.abs(got - want).max() <= 2
