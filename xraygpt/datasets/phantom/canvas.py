"""The film that one patient is drawn on, the patient and the exposure behind it, and the shapes drawn there.

Lengths are fractions of the image side. ``x`` runs from the patient's right (image left, negative) to the
patient's left (image right, positive) with 0 on the midline; ``y`` runs downwards from the top edge. Shapes
have soft edges: every function gives values in [0, 1] with an edge ``soft`` wide.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from xraygpt.datasets.phantom.truth import Truth

Array = np.ndarray
"""float32 array of shape (H, W), or broadcastable to it."""


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


def step(distance: Array, soft: float) -> Array:
    """1 where ``distance`` is well above 0, 0 well below: a linear ramp of width ``soft`` around 0."""
    return np.clip(distance / soft + 0.5, 0.0, 1.0)


def ellipse(
    x: Array, y: Array, centre: tuple[float, float], radii: tuple[float, float], soft: float
) -> Array:
    """A filled, axis-aligned ellipse."""
    radius = np.sqrt(((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2)
    return step((1.0 - radius) * min(radii), soft)


def blob(x: Array, y: Array, centre: tuple[float, float], sigma: tuple[float, float]) -> Array:
    """A Gaussian bump of height 1."""
    return np.exp(-0.5 * (((x - centre[0]) / sigma[0]) ** 2 + ((y - centre[1]) / sigma[1]) ** 2))


def box(
    x: Array, y: Array, centre: tuple[float, float], half: tuple[float, float], round_: float, soft: float
) -> Array:
    """A filled rectangle with corners rounded at radius ``round_``."""
    dx = np.abs(x - centre[0]) - half[0] + round_
    dy = np.abs(y - centre[1]) - half[1] + round_
    outside = np.sqrt(np.maximum(dx, 0) ** 2 + np.maximum(dy, 0) ** 2)
    return step(round_ - outside - np.minimum(np.maximum(dx, dy), 0), soft)


def segment_distance(x: Array, y: Array, start: tuple[float, float], end: tuple[float, float]) -> Array:
    """Distance of every pixel from a line segment."""
    ex, ey = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * ex + (y - start[1]) * ey) / (ex * ex + ey * ey + 1e-9), 0.0, 1.0)
    return np.hypot(x - start[0] - along * ex, y - start[1] - along * ey)


def polyline(x: Array, y: Array, points: list[tuple[float, float]], half_width: float, soft: float) -> Array:
    """A line through ``points``, ``2 * half_width`` thick."""
    distance = segment_distance(x, y, points[0], points[1])
    for start, end in pairwise(points[1:]):
        distance = np.minimum(distance, segment_distance(x, y, start, end))
    return step(half_width - distance, soft)


@dataclass(frozen=True)
class Anatomy:
    """Geometry of one patient and settings of one exposure."""

    chest_half_width: float
    apex_y: float
    diaphragm_y: tuple[float, float]
    """Height of the top of the right and left dome."""
    dome_height: float
    heart_centre: tuple[float, float]
    heart_radii: tuple[float, float]
    lung_density: float
    rib_phase: float
    rib_contrast: float
    clavicle_y: float
    breast: float
    shift: tuple[float, float]
    rotation: float
    """Radians."""
    scale: float
    exposure: float
    contrast: float
    noise: float


def draw_anatomy(truth: Truth, rng: random.Random) -> Anatomy:
    """Draw a patient whose build agrees with the findings (heart size, position of the diaphragms)."""
    names = {finding.name for finding in truth}
    u = rng.uniform
    width = u(0.345, 0.375)
    hyper = "hyperinflation" in names
    # Cardiothoracic ratio: clearly below 0.5, or clearly above it.
    ratio = u(0.60, 0.68) if "cardiomegaly" in names else u(0.40, 0.47) - (0.04 if hyper else 0.0)
    heart_width = ratio * width
    dome = u(0.835, 0.865) if hyper else u(0.715, 0.755)
    heart_x = 0.045 + 0.30 * (heart_width - 0.15)
    heart_height = 0.135 + 0.35 * (heart_width - 0.15)
    return Anatomy(
        chest_half_width=width,
        apex_y=u(0.10, 0.13),
        diaphragm_y=(dome, dome + u(0.015, 0.03)),
        dome_height=u(0.015, 0.022) if hyper else u(0.085, 0.11),
        heart_centre=(heart_x, dome - heart_height + (0.0 if hyper else 0.03)),
        heart_radii=(heart_width, heart_height),
        lung_density=u(0.17, 0.22) - (0.06 if hyper else 0.0),
        rib_phase=u(-0.01, 0.01),
        rib_contrast=u(0.055, 0.085),
        clavicle_y=u(0.145, 0.165),
        breast=u(0.0, 0.05),
        shift=(u(-0.025, 0.025), u(-0.02, 0.02)),
        rotation=u(-0.06, 0.06),
        scale=u(0.96, 1.06),
        exposure=u(-0.05, 0.05),
        contrast=u(0.9, 1.1),
        noise=u(0.008, 0.02),
    )
