"""PIL images of any mode to 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image


def to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` as 8-bit RGB.

    Grey images get three equal channels. Images of more than 8 bits (modes ``I``, ``I;16``, ``F``: 16-bit
    PNG or TIFF) are stretched linearly so that their darkest pixel becomes 0 and their brightest 255:
    radiographs of 10 to 16 bits come in the same container, and PIL's own conversion would clip all but the
    lowest 8 bits to white.
    """
    if image.mode == "RGB":
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _stretch(np.asarray(image, dtype=np.float32)).convert("RGB")
    return image.convert("RGB")


def _stretch(pixels: np.ndarray) -> Image.Image:
    low, high = float(pixels.min()), float(pixels.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    return Image.fromarray(np.rint((pixels - low) * scale).astype(np.uint8))
