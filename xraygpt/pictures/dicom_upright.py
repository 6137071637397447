"""Turning a DICOM image the way radiographs are looked at."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

Array = np.ndarray


def turn_upright(pixels: Array, dataset: Dataset) -> tuple[Array, tuple[str, ...]]:
    """Turn and mirror an image as PatientOrientation (PS3.3 C.7.6.1.1.1) asks for.

    The element names the direction in which the rows and the columns run. A frontal image is shown as if the
    patient faced us: rows run to the patient's left, columns to the feet; a lateral one with the head up.

    Args:
        pixels: (h, w).

    Returns:
        The image, (h, w) or (w, h), and notes.
    """
    value = dataset.get("PatientOrientation")
    if not value:
        return pixels, ()
    # Of an oblique direction ("LF") the first letter is the main one.
    directions = [str(part)[:1].upper() for part in value] if isinstance(value, MultiValue) else []
    kinds = [
        "vertical" if d in ("H", "F") else "horizontal" if d in ("L", "R", "A", "P") else ""
        for d in directions
    ]
    notes: list[str] = []
    if kinds == ["vertical", "horizontal"]:
        pixels, directions = pixels.T, directions[::-1]
        notes.append("transposed")
    elif kinds != ["horizontal", "vertical"]:
        return pixels, ("its orientation is not understood: left as stored",)
    if directions[0] == "R":
        pixels = pixels[:, ::-1]
        notes.append("mirrored left to right")
    if directions[1] == "H":
        pixels = pixels[::-1]
        notes.append("mirrored top to bottom")
    return pixels, (f"turned upright by its tags: {', '.join(notes)}",) if notes else ()
