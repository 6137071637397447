"""PIL images of any mode to 8-bit RGB or 8-bit grey."""

from __future__ import annotations

import numpy as np
from PIL import Image


def to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` as 8-bit RGB, grey images with three equal channels; see `to_8_bit`."""
    image = to_8_bit(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def to_8_bit(image: Image.Image) -> Image.Image:
    """Return `image` with 8 bits in each channel: as ``L`` if it is grey, as ``RGB`` if it is anything else.

    Images of more than 8 bits (modes ``I``, ``I;16``, ``F``: 16-bit PNG or TIFF) are stretched linearly so
    that their darkest pixel becomes 0 and their brightest 255: radiographs of 10 to 16 bits come in the same
    container, and PIL's own conversion would clip all but the lowest 8 bits to white.
    """
    if image.mode in ("L", "RGB"):
        return image
    return _stretch(image) if _is_deep(image) else image.convert("RGB")


def to_grey(image: Image.Image) -> Image.Image:
    """Return `image` as 8-bit grey (mode ``L``).

    Colours become their luminance, images of more than 8 bits are stretched as by `to_8_bit`, and what is
    transparent is laid on black, the background of a radiograph.
    """
    if _is_deep(image):
        return _stretch(image)
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image.convert("RGBA")).convert("L")
    return image if image.mode == "L" else image.convert("L")


def _is_deep(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _stretch(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32)
    finite = np.isfinite(pixels)
    low, high = (float(pixels[finite].min()), float(pixels[finite].max())) if finite.any() else (0.0, 0.0)
    scale = 255.0 / (high - low) if high > low else 0.0
    # NaN, which a float TIFF may hold for "nothing here", becomes black like the darkest pixel.
    return Image.fromarray(np.rint((np.where(finite, pixels, low) - low) * scale).astype(np.uint8))
