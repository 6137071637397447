"""Recognising a chest radiograph whose grey values are inverted, from its pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

LOOKS_INVERTED = "looks inverted: air bright, bone dark"
"""The note on such a picture."""
SIDE = 64
CERTAIN = 1.5
"""Score beyond which the polarity counts as recognised. Measured on 838 radiographs of public collections
(768 frontal, 70 lateral; supine, letterboxed and framed ones among them): none scored below minus this, so no
false alarm; inverted, all but 13 (4 frontal, 9 lateral) are recognised, 98.4 %."""


def looks_inverted(image: Image.Image) -> bool:
    """Tell whether a chest radiograph shows air bright and bone dark.

    Args:
        image: mode ``L``, upright.
    """
    return polarity(image) < -CERTAIN


def polarity(image: Image.Image) -> float:
    """Score how a chest radiograph is shown: above 0 with dark lungs, below 0 inverted.

    The spine and the abdomen, which are dense, are compared with the lungs and the upper corners, which hold
    air, in units of the picture's standard deviation. Inverting the picture changes the sign of the score.
    """
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0), dtype=np.float64)
    spine, abdomen = _mean(pixels, (19, 57), (28, 35)), _mean(pixels, (51, 64), (12, 51))
    lungs = (_mean(pixels, (16, 38), (12, 23)) + _mean(pixels, (16, 38), (40, 51))) / 2
    corners = (_mean(pixels, (0, 7), (0, 7)) + _mean(pixels, (0, 7), (56, 64))) / 2
    spread = float(pixels.std())
    return (2 * spine + abdomen - 2 * lungs - corners) / spread if spread > 0 else 0.0


def _mean(pixels: np.ndarray, rows: tuple[int, int], columns: tuple[int, int]) -> float:
    return float(pixels[slice(*rows), slice(*columns)].mean())
