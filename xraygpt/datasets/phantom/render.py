"""Draw a phantom: a synthetic frontal chest radiograph, bright where the body is dense.

Phantom number ``index`` of the split with a seed gets its findings, its image and the dice of its report.
"""

from __future__ import annotations

import random
from typing import Literal

import numpy as np

from xraygpt.datasets.phantom.canvas import Anatomy, Array, Canvas, draw_anatomy
from xraygpt.datasets.phantom.findings import draw_device, draw_lung_finding, draw_pleural_line, side_sign
from xraygpt.datasets.phantom.thorax import draw_body, draw_bones, draw_heart, draw_vessels
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
    image = draw_body(canvas)
    lungs = {side: canvas.cage[side] for side in (-1, 1)}
    air = {f: rng.uniform(*PNEUMOTHORAX_GAP[str(f.size)]) for f in truth if f.name == "pneumothorax"}
    for finding, gap in air.items():
        side = side_sign(finding)
        lungs[side] = canvas.lung(side, gap)
    density = np.zeros_like(image)
    for side in (-1, 1):
        texture = draw_vessels(canvas, side, rng, engorged=any(f.name == "pulmonary edema" for f in truth))
        density += lungs[side] * (canvas.anatomy.lung_density + texture)
        density += (canvas.cage[side] - lungs[side]).clip(0) * 0.03
    cavity = canvas.cage[-1] + canvas.cage[1]
    image = image * (1 - cavity) + density * cavity
    image = draw_heart(canvas, image)
    for finding in truth:
        image = draw_lung_finding(canvas, image, finding, rng, lungs[side_sign(finding)])
    for finding, gap in air.items():
        image = draw_pleural_line(canvas, image, side_sign(finding), gap)
    image = draw_bones(canvas, image)
    for finding in truth:
        image = draw_device(canvas, image, finding, rng)
    return _expose(canvas.anatomy, image, numpy_rng)


def _expose(a: Anatomy, image: Array, rng: np.random.Generator) -> np.ndarray:
    """Exposure, contrast and noise; the result as 8-bit grey."""
    image = (image - 0.45) * a.contrast + 0.47 + a.exposure * (image > 0.02)
    image = image + rng.normal(0.0, a.noise, image.shape).astype(np.float32)
    return (np.clip(image, 0.0, 1.0) * 255).round().astype(np.uint8)


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
