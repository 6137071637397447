"""Draw a phantom: a synthetic frontal chest radiograph, bright where the body is dense.

Phantom number ``index`` of the split with a seed gets its findings, its image and the dice of its report.
"""

from __future__ import annotations

import random
from typing import Literal

import numpy as np

from xraygpt.datasets.phantom.canvas import (
    Anatomy,
    Array,
    Canvas,
    blob,
    draw_anatomy,
    ellipse,
    polyline,
    segment_distance,
    step,
)
from xraygpt.datasets.phantom.findings import draw_device, draw_lung_finding, draw_pleural_line
from xraygpt.datasets.phantom.truth import Truth, draw_truth

PNEUMOTHORAX_GAP = {"small": (0.055, 0.07), "large": (0.13, 0.16)}


def render(truth: Truth, rng: random.Random, size: int) -> np.ndarray:
    """Draw one phantom.

    Args:
        truth: the findings to show.
        rng: source of everything else that varies (build, exposure, noise).
        size: side of the square image in pixels; 64 or more.

    Returns:
        uint8 array of shape (size, size); 0 is black (air), 255 white (dense).
    """
    canvas = Canvas(draw_anatomy(truth, rng), size)
    numpy_rng = np.random.default_rng(rng.getrandbits(63))
    image = _draw_body(canvas)
    lungs = dict(canvas.cage)
    air = {f: rng.uniform(*PNEUMOTHORAX_GAP[str(f.size)]) for f in truth if f.name == "pneumothorax"}
    for finding, gap in air.items():
        lungs[finding.sign] = canvas.lung(finding.sign, gap)
    density = np.zeros_like(image)
    engorged = any(finding.name == "pulmonary edema" for finding in truth)
    for side in (-1, 1):
        texture = _draw_vessels(canvas, side, rng, engorged)
        density += lungs[side] * (canvas.anatomy.lung_density + texture)
        density += (canvas.cage[side] - lungs[side]).clip(0) * 0.03
    cavity = canvas.cage[-1] + canvas.cage[1]
    image = image * (1 - cavity) + density * cavity
    image = _draw_heart(canvas, image)
    for finding in truth:
        image = draw_lung_finding(canvas, image, finding, rng, lungs[finding.sign])
    for finding, gap in air.items():
        image = draw_pleural_line(canvas, image, finding.sign, gap)
    image = _draw_bones(canvas, image)
    for finding in truth:
        image = draw_device(canvas, image, finding, rng)
    return _expose(canvas.anatomy, image, numpy_rng)


def phantom_rng(seed: int, index: int, purpose: Literal["truth", "image", "report"]) -> random.Random:
    """One of the generators behind phantom ``index`` of a split.

    They are independent, so that nothing in an image but its findings tells how its report is phrased.
    """
    return random.Random(f"phantom {seed} {index} {purpose}")


def phantom_truth(seed: int, index: int) -> Truth:
    """The findings of phantom ``index``."""
    return draw_truth(phantom_rng(seed, index, "truth"))


def render_phantom(seed: int, index: int, size: int) -> np.ndarray:
    """Render phantom ``index`` of a split; uint8 (size, size)."""
    return render(phantom_truth(seed, index), phantom_rng(seed, index, "image"), size)


def _draw_body(canvas: Canvas) -> Array:
    """Soft tissue of neck, shoulders, chest wall and abdomen on a black background."""
    x, y = np.abs(canvas.x), canvas.y
    shoulder = 0.085 + 0.16 * np.clip((x - 0.09) / 0.35, 0, 1) ** 1.3
    torso = step(np.maximum(y - shoulder, 0.085 - x), 0.03) * step(
        0.47 - x - 0.03 * np.clip(y - 0.4, 0, 1), 0.02
    )
    image = torso * (0.50 + 0.10 * np.clip((y - 0.55) / 0.3, 0, 1))
    image -= torso * 0.16 * step(x - 0.40, 0.08) * step(y - 0.25, 0.1)
    return image


def _draw_vessels(canvas: Canvas, side: int, rng: random.Random, engorged: bool) -> Array:
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


def _draw_heart(canvas: Canvas, image: Array) -> Array:
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


def _draw_bones(canvas: Canvas, image: Array) -> Array:
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


def _expose(a: Anatomy, image: Array, rng: np.random.Generator) -> np.ndarray:
    """Exposure, contrast and noise; the result as 8-bit grey."""
    image = (image - 0.45) * a.contrast + 0.47 + a.exposure * (image > 0.02)
    image = image + rng.normal(0.0, a.noise, image.shape).astype(np.float32)
    return (np.clip(image, 0.0, 1.0) * 255).round().astype(np.uint8)
