"""What a PIL image of any mode shows, as 8-bit grey or RGB."""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image

Array = np.ndarray

CLIPPED = 0.001
"""Part of the pixels that may be cut off at either end when more than 8 bits are stretched to 8."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How each value of EXIF's Orientation is brought upright."""
WHITE_IS_ZERO = 0
"""Value of TIFF's PhotometricInterpretation whose low values are the bright ones."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` as 8-bit RGB, grey images with three equal channels; see `to_8_bit`."""
    image = to_8_bit(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def to_8_bit(image: Image.Image) -> Image.Image:
    """Return what `image` shows with 8 bits in each channel: as ``L`` if it is grey, otherwise as ``RGB``.

    It is turned as its EXIF data say. What is transparent is laid on black, the background of a radiograph.
    Images of more than 8 bits (modes ``I``, ``I;16``, ``F``: 16-bit PNG or TIFF) are stretched linearly
    between the 0.1th and 99.9th percentile of their pixels: radiographs of 10 to 16 bits come in the same
    container, a burnt-in marker may be far brighter than all else, and PIL's own conversion would clip all
    but the lowest 8 bits to white. An upright 8-bit grey or RGB image is returned itself.
    """
    image.load()  # TIFF is turned by Pillow here
    turn = _turn(image)
    if image.mode == "F" or image.mode.startswith("I"):
        shown = _stretch(image)
    elif image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        shown = Image.alpha_composite(black, image.convert("RGBA"))
        shown = shown.convert("L" if image.mode in ("L", "LA") else "RGB")
    elif image.mode in ("L", "RGB"):
        shown = image
    else:
        shown = image.convert("L" if image.mode == "1" else "RGB")
    if turn is not None:
        shown = shown.transpose(turn)
        shown.info = {}  # nobody shall turn it again
    return shown


def usual_range(values: Array, counts: Array) -> tuple[float, float]:
    """Return the range of values that occur, leaving out the fraction `CLIPPED` of them at either end.

    Args:
        values: in ascending order.
        counts: how often each of them occurs; not all 0.
    """
    part = np.cumsum(counts) / counts.sum()
    low, high = values[np.searchsorted(part, (CLIPPED, 1 - CLIPPED))].tolist()
    if low == high:  # all but a few pixels are equal
        present = values[counts > 0]
        low, high = present[0], present[-1]
    return float(low), float(high)


def scale(values: Array, low: float, high: float) -> Array:
    """Map `low` to 0 and `high` to 1, and clip; all 0 if they are equal."""
    return np.clip((values - low) / (high - low), 0.0, 1.0) if high > low else np.zeros(len(values))


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow meets damaged EXIF data, which say nothing then, with errors of any kind
        return None


def _stretch(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    if pixels.dtype.kind == "u" and pixels.itemsize == 2:
        values, places, counts = np.arange(2**16), pixels, np.bincount(pixels.ravel(), minlength=2**16)
    else:
        # NaN, which a float TIFF may hold for "nothing here", becomes black like the darkest pixel.
        finite = np.isfinite(pixels)
        pixels = np.where(finite, pixels, pixels[finite].min() if finite.any() else 0)
        values, places, counts = np.unique(pixels, return_inverse=True, return_counts=True)
    shown = scale(values, *usual_range(values, counts))
    # Pillow turns these round itself, but only up to 8 bits.
    if getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == WHITE_IS_ZERO:
        shown = 1.0 - shown
    return Image.fromarray(np.rint(255 * shown).astype(np.uint8)[places])
