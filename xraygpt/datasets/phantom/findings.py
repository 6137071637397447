"""What makes a chest abnormal: findings of lung and pleura, and implanted devices.

Findings of the heart and of the build (cardiomegaly, hyperinflation) are part of the anatomy instead.
"""

from __future__ import annotations

import random

import numpy as np

from xraygpt.datasets.phantom.canvas import Array, Canvas, blob, box, ellipse, polyline, step
from xraygpt.datasets.phantom.truth import Finding

ZONE_Y = {"upper": (0.27, 0.34), "mid": (0.43, 0.51), "lower": (0.59, 0.65)}
EFFUSION_LEVEL = {"small": (0.045, 0.065), "moderate": (0.17, 0.21), "large": (0.34, 0.38)}


def draw_lung_finding(
    canvas: Canvas, image: Array, finding: Finding, rng: random.Random, lung: Array
) -> Array:
    """Draw one finding of lung or pleura; findings of heart, build and devices leave the image as it is."""
    match finding.name:
        case "pleural effusion":
            return _effusion(canvas, image, finding, rng)
        case "consolidation":
            return _consolidation(canvas, image, finding, rng, lung)
        case "nodule":
            return _nodule(canvas, image, finding, rng)
        case "pulmonary edema":
            return _edema(canvas, image, rng)
    return image


def _effusion(canvas: Canvas, image: Array, finding: Finding, rng: random.Random) -> Array:
    """Fluid with a meniscus that climbs the lateral chest wall and hides the diaphragm."""
    side = finding.sign
    a = canvas.anatomy
    depth = rng.uniform(*EFFUSION_LEVEL[str(finding.size)])
    floor = a.diaphragm_y[0 if side < 0 else 1] + a.dome_height
    lateral = np.clip((side * canvas.x - 0.06) / (a.chest_half_width - 0.06), 0.0, 1.0)
    rise = 0.055 if finding.size == "small" else 0.10
    surface = floor - depth - rise * lateral**3
    chest = step(canvas.wall() + 2 * canvas.soft - side * canvas.x, canvas.soft) * step(
        side * canvas.x - 0.03, 0.02
    )
    fluid = step(canvas.y - surface, 0.018) * chest
    return image + (0.61 - image).clip(0) * fluid


def _place(canvas: Canvas, finding: Finding, rng: random.Random, margin: float) -> tuple[float, float]:
    """A position in the finding's zone, clear of heart and chest wall."""
    a = canvas.anatomy
    y = rng.uniform(*ZONE_Y[str(finding.zone)])
    wall = a.chest_half_width * np.sqrt(1 - (1 - min(1.0, (y - a.apex_y) / (0.60 - a.apex_y))) ** 2.4)
    inner = 0.115
    if finding.zone == "lower" and finding.side == "left":
        inner = a.heart_centre[0] + a.heart_radii[0] + 0.02
    low, high = inner + 0.5 * margin, wall - margin
    return finding.sign * rng.uniform(min(low, high), high), y


def _consolidation(canvas: Canvas, image: Array, finding: Finding, rng: random.Random, lung: Array) -> Array:
    """A fluffy, ill-defined patch with a few dark air bronchograms."""
    x, y = canvas.x, canvas.y
    centre = _place(canvas, finding, rng, margin=0.075)
    patch = np.zeros_like(image)
    for _ in range(7):
        offset = (rng.gauss(0, 0.032), rng.gauss(0, 0.026))
        spread = rng.uniform(0.026, 0.042)
        patch = patch + rng.uniform(0.5, 0.8) * blob(
            x, y, (centre[0] + offset[0], centre[1] + offset[1]), (spread, spread)
        )
    patch = np.clip(patch, 0, 1) * lung
    hilum = (finding.sign * 0.08, 0.42)
    bronchus = polyline(x, y, [hilum, centre], 0.004, 0.01) * patch
    return image + (0.62 - image).clip(0) * 0.82 * patch - 0.06 * bronchus


def _nodule(canvas: Canvas, image: Array, finding: Finding, rng: random.Random) -> Array:
    """A round, well-defined opacity."""
    radius = rng.uniform(0.030, 0.040)
    centre = _place(canvas, finding, rng, margin=0.05)
    disc = ellipse(canvas.x, canvas.y, centre, (radius, radius * rng.uniform(0.92, 1.08)), 0.012)
    return image + (0.66 - image).clip(0) * 0.92 * disc


def _edema(canvas: Canvas, image: Array, rng: random.Random) -> Array:
    """Perihilar bat-wing haze on both sides, and short horizontal septal lines at the bases."""
    x, y = canvas.x, canvas.y
    for side in (-1, 1):
        lung = canvas.cage[side]
        phase = rng.uniform(0, 6)
        mottle = 0.8 + 0.12 * np.sin(70 * x + 25 * y + phase) + 0.12 * np.sin(55 * y - 30 * x + 2 * phase)
        haze = 1.1 * blob(x, y, (side * 0.13, 0.46), (0.085, 0.15)) + 0.35 * blob(
            x, y, (side * 0.18, 0.68), (0.12, 0.10)
        )
        image = (
            image + (0.60 - image).clip(0) * 0.85 * rng.uniform(0.9, 1.0) * (haze * mottle).clip(0, 1) * lung
        )
        for line in range(4):
            level = 0.60 + 0.028 * line
            start, end = (
                (side * (canvas.anatomy.chest_half_width - 0.055), level),
                (side * (canvas.anatomy.chest_half_width - 0.005), level),
            )
            image = image + 0.14 * polyline(x, y, [start, end], 0.003, 0.008) * lung
    return image


def draw_pleural_line(canvas: Canvas, image: Array, side: int, gap: float) -> Array:
    """The thin bright edge of a lung that has fallen away from the chest wall."""
    edge = canvas.wall(gap) - side * canvas.x
    line = step(canvas.thin * 1.3 - np.abs(edge), canvas.soft) * step(side * canvas.x - 0.05, 0.02)
    return image + 0.28 * line * canvas.cage[side]


def draw_device(canvas: Canvas, image: Array, finding: Finding, rng: random.Random) -> Array:
    """Draw one implanted device; other findings leave the image as it is."""
    x, y = canvas.x, canvas.y
    heart = canvas.anatomy.heart_centre
    metal = np.zeros_like(image)
    if finding.name == "pacemaker":
        centre = (rng.uniform(0.25, 0.28), rng.uniform(0.215, 0.245))
        metal = box(x, y, centre, (0.052, 0.042), 0.018, canvas.soft)
        lead = [
            (centre[0] - 0.04, centre[1] - 0.02),
            (0.14, 0.165),
            (0.03, 0.21),
            (-0.045, 0.34),
            (-0.05, 0.50),
        ]
        for tip in ((-0.02, heart[1] - 0.03), (heart[0] + 0.06, heart[1] + 0.07)):
            metal = np.maximum(metal, 0.8 * polyline(x, y, [*lead, tip], canvas.thin, canvas.soft))
    elif finding.name == "central line":
        neck = rng.uniform(-0.12, -0.09)
        points = [
            (neck - 0.02, 0.0),
            (neck, 0.10),
            (-0.062, 0.22),
            (-0.050, 0.33),
            (-0.047, rng.uniform(0.42, 0.47)),
        ]
        metal = 0.8 * polyline(x, y, points, 1.25 * canvas.thin, canvas.soft)
    elif finding.name == "sternotomy wires":
        for index in range(6):
            centre = (rng.gauss(0.0, 0.004), 0.27 + 0.067 * index)
            loop = np.abs(np.sqrt(((x - centre[0]) / 1.25) ** 2 + (y - centre[1]) ** 2) - 0.016)
            metal = np.maximum(metal, 0.9 * step(canvas.thin - loop, canvas.soft))
    return image + (1.0 - image).clip(0) * 0.85 * metal
