"""Soft-edged shapes on a pixel grid: every function gives values in [0, 1] with an edge ``soft`` wide."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

Array = np.ndarray
"""float32 array of shape (H, W), or broadcastable to it."""


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
