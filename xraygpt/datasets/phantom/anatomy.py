"""The patient and the exposure behind one phantom: all numbers that vary between films.

Lengths are fractions of the image side. ``x`` runs from the patient's right (image left, negative) to the
patient's left (image right, positive) with 0 on the midline; ``y`` runs downwards from the top edge.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from xraygpt.datasets.phantom.truth import Truth


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
