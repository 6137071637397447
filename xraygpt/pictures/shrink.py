"""Making a picture smaller by averaging the area that each new pixel covers."""

from __future__ import annotations

import numpy as np
from PIL import Image

Array = np.ndarray


def shrink(image: Image.Image, longest_side: int) -> Image.Image:
    """Return `image` with its longest side brought down to `longest_side`; a smaller one as it is.

    Each new pixel is the mean of the old ones below it, those at its rim counted in part. Pillow's BOX
    filter counts them whole or not at all, which drops and doubles lines when the size changes little.

    Args:
        image: mode ``L``.
        longest_side: pixels.
    """
    if max(image.size) <= longest_side:
        return image
    ratio = max(image.size) / longest_side
    new_width, new_height = (max(1, round(side / ratio)) for side in image.size)
    # Whole pixels first, which Pillow does fast; at least a factor of two is left for the exact part.
    step = max(1, int(ratio / 2))
    pixels = np.asarray(image.reduce(step), dtype=np.float32)  # (h, w)
    pixels = _average_columns(pixels, image.width / step, new_width)
    pixels = _average_columns(np.ascontiguousarray(pixels.T), image.height / step, new_height).T
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def _average_columns(pixels: Array, extent: float, count: int) -> Array:
    """Average groups of columns, (h, w) -> (h, count); the new ones share the first `extent` evenly."""
    edges = np.linspace(0.0, extent, count + 1)
    whole = np.minimum(edges.astype(np.intp), pixels.shape[1] - 1)
    part = (edges - whole).astype(np.float32)
    sums = np.cumsum(pixels, axis=1)  # up to and with each column
    left = sums[:, whole] + (part - 1.0) * pixels[:, whole]  # sum over what is left of each edge
    return np.diff(left, axis=1) * np.float32(count / extent)
