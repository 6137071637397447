"""What every chest shows: soft tissue, lung vessels, heart and mediastinum, bones."""

from __future__ import annotations

import random

import numpy as np

from xraygpt.datasets.phantom.canvas import Array, Canvas, blob, ellipse, polyline, segment_distance, step


def draw_body(canvas: Canvas) -> Array:
    """Soft tissue of neck, shoulders, chest wall and abdomen on a black background."""
    x, y = np.abs(canvas.x), canvas.y
    shoulder = 0.085 + 0.16 * np.clip((x - 0.09) / 0.35, 0, 1) ** 1.3
    torso = step(np.maximum(y - shoulder, 0.085 - x), 0.03) * step(
        0.47 - x - 0.03 * np.clip(y - 0.4, 0, 1), 0.02
    )
    image = torso * (0.50 + 0.10 * np.clip((y - 0.55) / 0.3, 0, 1))
    image -= torso * 0.16 * step(x - 0.40, 0.08) * step(y - 0.25, 0.1)
    return image


def draw_vessels(canvas: Canvas, side: int, rng: random.Random, engorged: bool) -> Array:
    """Pulmonary vessels of one lung, branching from the hilum and fading towards the periphery."""
    hilum = (side * 0.075, 0.42)
    strength = 0.24 if engorged else 0.17
    vessels = (0.10 * blob(canvas.x, canvas.y, hilum, (0.035, 0.06))).astype(np.float64)
    fade = np.clip(1.0 - np.hypot(canvas.x - hilum[0], canvas.y - hilum[1]) / 0.30, 0.0, 1.0)
    # Vessels take most of the time of a phantom: draw only where they reach and the lung shows them.
    seen = fade * canvas.cage[side] > 0
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    x, y, fade = canvas.x[window], canvas.y[window], fade[window]
    for index in range(9):
        angle = -1.25 + 2.5 * (index + rng.uniform(0.2, 0.8)) / 9
        length = rng.uniform(0.17, 0.25)
        bend = angle + rng.uniform(-0.3, 0.3)
        middle = (hilum[0] + side * 0.55 * length * np.cos(angle), hilum[1] + 0.62 * length * np.sin(angle))
        tip = (middle[0] + side * 0.5 * length * np.cos(bend), middle[1] + 0.6 * length * np.sin(bend))
        distance = np.minimum(segment_distance(x, y, hilum, middle), segment_distance(x, y, middle, tip))
        vessel = strength * fade * step(0.004 + 0.010 * fade - distance, 0.012)
        vessels[window] = np.maximum(vessels[window], vessel)
    return vessels


def draw_heart(canvas: Canvas, image: Array) -> Array:
    """Mediastinum with trachea and aortic arch, heart, and the spine behind them."""
    a, x, y = canvas.anatomy, canvas.x, canvas.y
    soft = 2.5 * canvas.soft
    band = step(0.058 + 0.012 * np.clip((y - 0.3) / 0.3, -1, 1) - np.abs(x), soft) * step(y - 0.09, 0.05)
    arch = ellipse(x, y, (0.058, 0.315), (0.042, 0.046), soft)
    dx, dy = x - a.heart_centre[0], y - a.heart_centre[1]
    tilt = 0.30  # radians: the apex points down and to the patient's left
    heart = ellipse(dx + tilt * dy, dy - 0.5 * tilt * dx, (0.0, 0.0), a.heart_radii, soft)
    heart = np.maximum(heart, ellipse(x, y, (-0.03, a.heart_centre[1] + 0.01), (0.065, 0.10), soft))
    above = step(np.maximum(canvas.diaphragm(-1), canvas.diaphragm(1)) + 0.01 - y, soft)
    dense = np.maximum(np.maximum(band, arch) * 0.62, heart * above * 0.66)
    image = np.maximum(image, dense)
    trachea = step(0.019 - np.abs(x - 0.004), soft) * step(0.37 - y, 0.04)
    image = image - 0.17 * trachea
    vertebrae = step(0.040 - np.abs(x), soft) * (0.05 + 0.025 * np.cos(2 * np.pi * y / 0.062))
    return image + vertebrae * step(y - 0.05, 0.03)


def draw_bones(canvas: Canvas, image: Array) -> Array:
    """Posterior and anterior ribs, and the clavicles."""
    a, x, y = canvas.anatomy, canvas.x, canvas.y
    out = np.abs(x)
    inside = step(canvas.wall() + 0.025 - out, 0.02) * step(0.93 - y, 0.05)
    # Ribs as level lines of a phase: posterior ribs run down and out, anterior ones down and in.
    posterior = y - 0.16 + a.rib_phase + 0.10 * (out - 0.10) - 1.1 * np.clip(out - 0.22, 0, 1) ** 2
    anterior = y - 0.27 + a.rib_phase + 0.55 * (out - 0.30)
    pattern = _rib_profile(posterior, 0.072, 0.30, canvas.soft) * step(out - 0.045, 0.02)
    pattern = pattern + 0.55 * _rib_profile(anterior, 0.092, 0.26, canvas.soft) * step(out - 0.15, 0.06)
    image = image + a.rib_contrast * pattern * inside
    for side in (-1, 1):
        top = a.clavicle_y
        points = [
            (side * 0.045, top + 0.035),
            (side * 0.15, top + 0.005),
            (side * 0.26, top - 0.03),
            (side * 0.37, top - 0.035),
        ]
        image = image + 0.13 * polyline(x, y, points, 0.014, 0.010)
    return image


def _rib_profile(phase: Array, spacing: float, duty: float, soft: float) -> Array:
    """Bands of bone repeated every ``spacing``, brighter along both edges (cortex)."""
    position = np.abs((phase / spacing) % 1.0 - 0.5) * spacing
    half = duty * spacing / 2
    band = step(half - position, max(0.008, soft))
    return band * (0.7 + 0.3 * np.clip(position / half, 0, 1)) * step(phase, 0.01)
