"""Phantom number ``index`` of the split with a seed: its findings, its image, and the dice of its report."""

from __future__ import annotations

import random
from typing import Literal

import numpy as np

from xraygpt.datasets.phantom.render import render
from xraygpt.datasets.phantom.truth import Truth, draw_truth


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
