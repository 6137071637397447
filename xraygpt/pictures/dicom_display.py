"""The stored values of a DICOM image to 8-bit grey, as a viewer shows them.

A stored value has at most 16 bits, so all steps (PS3.3 C.11: modality LUT, window or VOI LUT, polarity) are
worked out once for every possible value; the picture is then looked up in that table.
"""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

Array = np.ndarray

BEYOND = 1e9
"""Farther out than any window."""
CLIPPED = 0.001
"""Part of the pixels that may be cut off at either end where a file has no window."""


def to_display(stored: Array, dataset: Dataset, invert: bool) -> tuple[Array, tuple[str, ...]]:
    """Turn stored values into 8-bit grey; padding becomes black.

    The first of several windows or VOI LUTs is taken; a VOI LUT goes before a window. Without either, or
    where the window is unusable, 8-bit values are shown as they are, and 16-bit ones are stretched between
    the 0.1th and 99.9th percentile of the pixels that are not padding.

    Args:
        stored: (h, w) integers of 8 or 16 bits, signed or not.
        dataset: the tags.
        invert: whether low values are the bright ones (MONOCHROME1).

    Returns:
        uint8 array (h, w), and notes.
    """
    bits = 8 * stored.itemsize
    index = stored.view(f"uint{bits}")  # the bit pattern of a pixel is its place in the table
    values = np.arange(2**bits).astype(stored.dtype).astype(np.int64)  # stored value of each pattern
    padding = _padding(values, dataset)
    rescaled = apply_modality_lut(values, dataset).astype(np.float64)
    table, notes = _window(rescaled, dataset)
    if table is None:
        low, high = (rescaled.min(), rescaled.max()) if bits == 8 else _range(index, rescaled, padding)
        table = _scale(rescaled, low, high)
    if invert:
        table = 1.0 - table
    table[padding] = 0.0
    return np.rint(255 * table).astype(np.uint8)[index], notes


def _padding(values: Array, dataset: Dataset) -> Array:
    """Mark the values that stand for "no picture here" (PS3.3 C.7.5.1.1.2)."""
    first = dataset.get("PixelPaddingValue")
    if not isinstance(first, int):
        return np.zeros(len(values), dtype=bool)
    last = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((first, last if isinstance(last, int) else first))
    return (values >= low) & (values <= high)


def _window(rescaled: Array, dataset: Dataset) -> tuple[Array | None, tuple[str, ...]]:
    """Apply the VOI LUT or window to rescaled values; 0 (dark) to 1. None where there is none."""
    if not dataset.get("VOILUTSequence") and dataset.get("WindowCenter") is None:
        return None, ()
    try:
        with np.errstate(over="ignore"):
            if dataset.get("VOILUTSequence"):
                shown = apply_voi(np.rint(rescaled).astype(np.int64), dataset)
            else:
                # The two values added lie beyond any window, so they come out as black and white.
                shown = apply_windowing(np.append(rescaled, (-BEYOND, BEYOND)), dataset)
        table = _scale(shown, shown.min(), shown.max())[: len(rescaled)]
    # pydicom meets a window that is text, has no width, or lacks its other half with errors of any kind.
    except Exception:
        return None, ("its window is unusable, and left out",)
    return (table, ()) if np.ptp(table) > 0 else (None, ("its window shows nothing, and is left out",))


def _range(index: Array, rescaled: Array, padding: Array) -> tuple[float, float]:
    """Return the range of the values that occur, but for a few at either end."""
    counts = np.bincount(index.ravel(), minlength=len(rescaled))
    counts[padding] = 0
    order = np.argsort(rescaled, kind="stable")
    part = np.cumsum(counts[order]) / max(1, counts.sum())
    low, high = (rescaled[order[np.searchsorted(part, p)]] for p in (CLIPPED, 1 - CLIPPED))
    return float(low), float(high)


def _scale(values: Array, low: float, high: float) -> Array:
    """Map `low` to 0 and `high` to 1, and clip; all 0 if they are equal."""
    return np.clip((values - low) / (high - low), 0.0, 1.0) if high > low else np.zeros(len(values))
