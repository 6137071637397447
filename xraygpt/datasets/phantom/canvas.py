"""The film that one patient is drawn on."""

from __future__ import annotations

import numpy as np

from xraygpt.datasets.phantom.anatomy import Anatomy
from xraygpt.datasets.phantom.shapes import Array, step


class Canvas:
    """The film of one patient: pixel coordinates in the patient's frame, and the lung masks."""

    def __init__(self, anatomy: Anatomy, size: int) -> None:
        self.anatomy = anatomy
        self.soft = 1.3 / size
        self.thin = max(0.0045, 0.42 / size)  # half width of a wire: never thinner than a pixel
        grid = (np.arange(size, dtype=np.float32) + 0.5) / size
        u = (grid[None, :] - 0.5 - anatomy.shift[0]) / anatomy.scale
        v = (grid[:, None] - 0.5 - anatomy.shift[1]) / anatomy.scale
        cos, sin = np.cos(anatomy.rotation), np.sin(anatomy.rotation)
        self.x: Array = (cos * u + sin * v).astype(np.float32)
        self.y: Array = (cos * v - sin * u + 0.5).astype(np.float32)
        self.cage = {side: self.lung(side) for side in (-1, 1)}

    def wall(self, inset: float = 0.0) -> Array:
        """Half width of the chest cavity at each height, ``inset`` further in."""
        a = self.anatomy
        top = a.apex_y + inset
        rise = np.clip((self.y - top) / (0.60 - top), 0.0, 1.0)
        return (a.chest_half_width - inset) * np.sqrt(1.0 - (1.0 - rise) ** 2.4)

    def diaphragm(self, side: int) -> Array:
        """Height of the diaphragm of one side (-1 right, 1 left) at each x."""
        a = self.anatomy
        lung_x = side * 0.17
        dome = a.diaphragm_y[0 if side < 0 else 1]
        return dome + a.dome_height * ((self.x - lung_x) / 0.17) ** 2

    def lung(self, side: int, inset: float = 0.0) -> Array:
        """Mask of one lung; with ``inset``, of a lung that has shrunk away from the chest wall."""
        out = side * self.x
        medial = 0.035 + 0.02 * np.clip((self.y - 0.45) / 0.3, -1, 1)
        mask = step(self.wall(inset) - out, 2 * self.soft) * step(out - medial, 3 * self.soft)
        return mask * step(self.diaphragm(side) - self.y, 2 * self.soft)
