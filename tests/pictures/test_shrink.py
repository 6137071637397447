"""The area filter: each new pixel is the mean of what lies below it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.pictures.dicom_files import chest
from xraygpt.pictures.shrink import shrink


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)


def exact(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """The same by the definition: how much of each old pixel lies below each new one."""
    return shares(pixels.shape[0], height) @ pixels @ shares(pixels.shape[1], width).T


def shares(old: int, new: int) -> np.ndarray:
    edges, start = np.arange(new + 1)[:, None] * old / new, np.arange(old)
    covered = np.minimum(edges[1:], start + 1) - np.maximum(edges[:-1], start)
    return covered.clip(0) * new / old


@pytest.mark.parametrize("size", [(37, 30), (31, 40), (59, 60)])
def test_up_to_a_factor_of_four_the_mean_is_exact(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    small = shrink(Image.fromarray(pixels), 29 if max(size) < 60 else 21)
    want = exact(pixels, small.width, small.height)
    assert max(small.size) in (29, 21)
    assert np.abs(np.asarray(small) - want).max() <= 0.51


def test_larger_factors_stay_close_to_the_exact_mean() -> None:
    radiograph = chest(403)[:311]
    small = np.asarray(shrink(Image.fromarray(radiograph), 64), dtype=float)
    assert np.abs(small - exact(radiograph, 64, 49)).mean() < 1


def test_whole_factors_average_blocks() -> None:
    pixels = noise(128, 64)
    want = pixels.reshape(8, 8, 16, 8).mean(axis=(1, 3))
    assert np.abs(np.asarray(shrink(Image.fromarray(pixels), 16)) - want).max() <= 1


def test_what_fits_is_left_alone_and_a_thin_picture_keeps_a_line() -> None:
    image = Image.fromarray(noise(40, 30))
    assert shrink(image, 40) is image
    assert shrink(Image.fromarray(noise(900, 1)), 20).size == (20, 1)
