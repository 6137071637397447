"""Draw a phantom: a synthetic frontal chest radiograph, bright where the body is dense."""

from __future__ import annotations

import random

import numpy as np

from xraygpt.datasets.phantom.anatomy import Anatomy, draw_anatomy
from xraygpt.datasets.phantom.shapes import Array, blob, box, ellipse, polyline, segment_distance, step
from xraygpt.datasets.phantom.truth import Finding, Truth

ZONE_Y = {"upper": (0.27, 0.34), "mid": (0.43, 0.51), "lower": (0.59, 0.65)}
EFFUSION_LEVEL = {"small": (0.045, 0.065), "moderate": (0.17, 0.21), "large": (0.34, 0.38)}
PNEUMOTHORAX_GAP = {"small": (0.055, 0.07), "large": (0.13, 0.16)}


class _Canvas:
    """The film of one patient: pixel coordinates in the patient's frame, and the lung masks."""

    def __init__(self, anatomy: Anatomy, size: int) -> None:
        self.anatomy = anatomy
        self.soft = 1.3 / size
        self.thin = max(0.0045, 0.42 / size)  # half width of a wire: never thinner than a pixel
        grid = (np.arange(size, dtype=np.float32) + 0.5) / size
        u, v = (grid[None, :] - 0.5 - anatomy.shift[0]) / anatomy.scale, (grid[:, None] - 0.5 - anatomy.shift[1]) / anatomy.scale
        cos, sin = np.cos(anatomy.rotation), np.sin(anatomy.rotation)
        self.x: Array = (cos * u + sin * v).astype(np.float32)
        self.y: Array = (cos * v - sin * u + 0.5).astype(np.float32)
        self.cage = {side: self._cage(side) for side in (-1, 1)}

    def wall(self, inset: float = 0.0) -> Array:
        """Half width of the chest cavity at each height, ``inset`` further in."""
        a = self.anatomy
        top = a.apex_y + inset
        rise = np.clip((self.y - top) / (0.60 - top), 0.0, 1.0)
        return (a.chest_half_width - inset) * np.sqrt(1.0 - (1.0 - rise) ** 2.4)

    def diaphragm(self, side: int) -> Array:
        a = self.anatomy
        lung_x = side * 0.17
        dome = a.diaphragm_y[0 if side < 0 else 1]
        return dome + a.dome_height * ((self.x - lung_x) / 0.17) ** 2

    def _cage(self, side: int, inset: float = 0.0) -> Array:
        """Mask of one lung; with ``inset``, of a lung that has shrunk away from the chest wall."""
        out = side * self.x
        medial = 0.035 + 0.02 * np.clip((self.y - 0.45) / 0.3, -1, 1)
        mask = step(self.wall(inset) - out, 2 * self.soft) * step(out - medial, 3 * self.soft)
        return mask * step(self.diaphragm(side) - self.y, 2 * self.soft)

    def shrunken_lung(self, side: int, inset: float) -> Array:
        return self._cage(side, inset)


def side_sign(finding: Finding) -> int:
    """-1 for the patient's right (image left), 1 for the left."""
    return -1 if finding.side == "right" else 1


def render(truth: Truth, rng: random.Random, size: int) -> np.ndarray:
    """Draw one phantom.

    Args:
        truth: the findings to show.
        rng: source of everything else that varies (build, exposure, noise).
        size: side of the square image in pixels; 64 or more.

    Returns:
        uint8 array of shape (size, size); 0 is black (air), 255 white (dense).
    """
    canvas = _Canvas(draw_anatomy(truth, rng), size)
    numpy_rng = np.random.default_rng(rng.getrandbits(63))
    image = _body(canvas)
    lungs = {side: canvas.cage[side] for side in (-1, 1)}
    air = {f: rng.uniform(*PNEUMOTHORAX_GAP[str(f.size)]) for f in truth if f.name == "pneumothorax"}
    for finding, gap in air.items():
        side = side_sign(finding)
        lungs[side] = canvas.shrunken_lung(side, gap)
    density = np.zeros_like(image)
    for side in (-1, 1):
        texture = _vessels(canvas, side, rng, engorged=any(f.name == "pulmonary edema" for f in truth))
        density += lungs[side] * (canvas.anatomy.lung_density + texture)
        density += (canvas.cage[side] - lungs[side]).clip(0) * 0.03
    cavity = canvas.cage[-1] + canvas.cage[1]
    image = image * (1 - cavity) + density * cavity
    image = _heart_and_vessels(canvas, image)
    for finding in truth:
        image = _lung_finding(canvas, image, finding, rng, lungs[side_sign(finding)])
    for finding, gap in air.items():
        image = _pleural_line(canvas, image, side_sign(finding), gap)
    image = _bones(canvas, image)
    for finding in truth:
        image = _device(canvas, image, finding, rng)
    return _expose(canvas.anatomy, image, numpy_rng)


def _body(canvas: _Canvas) -> Array:
    """Soft tissue of neck, shoulders, chest wall and abdomen on a black background."""
    x, y = np.abs(canvas.x), canvas.y
    shoulder = 0.085 + 0.16 * np.clip((x - 0.09) / 0.35, 0, 1) ** 1.3
    torso = step(np.maximum(y - shoulder, 0.085 - x), 0.03) * step(0.47 - x - 0.03 * np.clip(y - 0.4, 0, 1), 0.02)
    image = torso * (0.50 + 0.10 * np.clip((y - 0.55) / 0.3, 0, 1))
    image -= torso * 0.16 * step(x - 0.40, 0.08) * step(y - 0.25, 0.1)
    return image


def _vessels(canvas: _Canvas, side: int, rng: random.Random, engorged: bool) -> Array:
    """Pulmonary vessels branching from the hilum, fading towards the periphery."""
    x, y = canvas.x, canvas.y
    hilum = (side * 0.075, 0.42)
    strength = 0.24 if engorged else 0.17
    vessels = 0.10 * blob(x, y, hilum, (0.035, 0.06))
    for index in range(9):
        angle = -1.25 + 2.5 * (index + rng.uniform(0.2, 0.8)) / 9
        length = rng.uniform(0.17, 0.25)
        bend = rng.uniform(-0.3, 0.3)
        middle = (hilum[0] + side * 0.55 * length * np.cos(angle), hilum[1] + 0.62 * length * np.sin(angle))
        tip = (middle[0] + side * 0.5 * length * np.cos(angle + bend), middle[1] + 0.6 * length * np.sin(angle + bend))
        fade = np.clip(1.0 - np.hypot(x - hilum[0], y - hilum[1]) / 0.30, 0.0, 1.0)
        distance = np.minimum(segment_distance(x, y, hilum, middle), segment_distance(x, y, middle, tip))
        vessels = np.maximum(vessels, strength * fade * step(0.004 + 0.010 * fade - distance, 0.012))
    return vessels


def _heart_and_vessels(canvas: _Canvas, image: Array) -> Array:
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


def _bones(canvas: _Canvas, image: Array) -> Array:
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
        points = [(side * 0.045, top + 0.035), (side * 0.15, top + 0.005), (side * 0.26, top - 0.03), (side * 0.37, top - 0.035)]
        image = image + 0.13 * polyline(x, y, points, 0.014, 0.010)
    return image


def _rib_profile(phase: Array, spacing: float, duty: float, soft: float) -> Array:
    """Bands of bone repeated every ``spacing``, brighter along both edges (cortex)."""
    position = np.abs((phase / spacing) % 1.0 - 0.5) * spacing
    half = duty * spacing / 2
    band = step(half - position, max(0.008, soft))
    return band * (0.7 + 0.3 * np.clip(position / half, 0, 1)) * step(phase, 0.01)


def _lung_finding(canvas: _Canvas, image: Array, finding: Finding, rng: random.Random, lung: Array) -> Array:
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


def _effusion(canvas: _Canvas, image: Array, finding: Finding, rng: random.Random) -> Array:
    """Fluid with a meniscus that climbs the lateral chest wall and hides the diaphragm."""
    side = side_sign(finding)
    a = canvas.anatomy
    depth = rng.uniform(*EFFUSION_LEVEL[str(finding.size)])
    floor = a.diaphragm_y[0 if side < 0 else 1] + a.dome_height
    lateral = np.clip((side * canvas.x - 0.06) / (a.chest_half_width - 0.06), 0.0, 1.0)
    rise = 0.055 if finding.size == "small" else 0.10
    surface = floor - depth - rise * lateral**3
    chest = step(canvas.wall() + 2 * canvas.soft - side * canvas.x, canvas.soft) * step(side * canvas.x - 0.03, 0.02)
    fluid = step(canvas.y - surface, 0.018) * chest
    return image + (0.61 - image).clip(0) * fluid


def _place(canvas: _Canvas, finding: Finding, rng: random.Random, margin: float) -> tuple[float, float]:
    """A position in the finding's zone, clear of heart and chest wall."""
    a = canvas.anatomy
    y = rng.uniform(*ZONE_Y[str(finding.zone)])
    wall = a.chest_half_width * np.sqrt(1 - (1 - min(1.0, (y - a.apex_y) / (0.60 - a.apex_y))) ** 2.4)
    inner = 0.115
    if finding.zone == "lower" and finding.side == "left":
        inner = a.heart_centre[0] + a.heart_radii[0] + 0.02
    low, high = inner + 0.5 * margin, wall - margin
    return side_sign(finding) * rng.uniform(min(low, high), high), y


def _consolidation(canvas: _Canvas, image: Array, finding: Finding, rng: random.Random, lung: Array) -> Array:
    """A fluffy, ill-defined patch with a few dark air bronchograms."""
    x, y = canvas.x, canvas.y
    centre = _place(canvas, finding, rng, margin=0.075)
    patch = np.zeros_like(image)
    for _ in range(7):
        offset = (rng.gauss(0, 0.032), rng.gauss(0, 0.026))
        spread = rng.uniform(0.026, 0.042)
        patch = patch + rng.uniform(0.5, 0.8) * blob(x, y, (centre[0] + offset[0], centre[1] + offset[1]), (spread, spread))
    patch = np.clip(patch, 0, 1) * lung
    hilum = (side_sign(finding) * 0.08, 0.42)
    bronchus = polyline(x, y, [hilum, centre], 0.004, 0.01) * patch
    return image + (0.62 - image).clip(0) * 0.82 * patch - 0.06 * bronchus


def _nodule(canvas: _Canvas, image: Array, finding: Finding, rng: random.Random) -> Array:
    """A round, well-defined opacity."""
    radius = rng.uniform(0.030, 0.040)
    centre = _place(canvas, finding, rng, margin=0.05)
    disc = ellipse(canvas.x, canvas.y, centre, (radius, radius * rng.uniform(0.92, 1.08)), 0.012)
    return image + (0.66 - image).clip(0) * 0.92 * disc


def _edema(canvas: _Canvas, image: Array, rng: random.Random) -> Array:
    """Perihilar bat-wing haze on both sides, and short horizontal septal lines at the bases."""
    x, y = canvas.x, canvas.y
    for side in (-1, 1):
        lung = canvas.cage[side]
        phase = rng.uniform(0, 6)
        mottle = 0.8 + 0.12 * np.sin(70 * x + 25 * y + phase) + 0.12 * np.sin(55 * y - 30 * x + 2 * phase)
        haze = 1.1 * blob(x, y, (side * 0.13, 0.46), (0.085, 0.15)) + 0.35 * blob(x, y, (side * 0.18, 0.68), (0.12, 0.10))
        image = image + (0.60 - image).clip(0) * 0.85 * rng.uniform(0.9, 1.0) * (haze * mottle).clip(0, 1) * lung
        for line in range(4):
            level = 0.60 + 0.028 * line
            start, end = (side * (canvas.anatomy.chest_half_width - 0.055), level), (side * (canvas.anatomy.chest_half_width - 0.005), level)
            image = image + 0.14 * polyline(x, y, [start, end], 0.003, 0.008) * lung
    return image


def _pleural_line(canvas: _Canvas, image: Array, side: int, gap: float) -> Array:
    """The thin bright edge of a lung that has fallen away from the chest wall."""
    edge = canvas.wall(gap) - side * canvas.x
    line = step(canvas.thin * 1.3 - np.abs(edge), canvas.soft) * step(side * canvas.x - 0.05, 0.02)
    return image + 0.28 * line * canvas.cage[side]


def _device(canvas: _Canvas, image: Array, finding: Finding, rng: random.Random) -> Array:
    """Draw one implanted device; other findings leave the image as it is."""
    x, y = canvas.x, canvas.y
    heart = canvas.anatomy.heart_centre
    metal = np.zeros_like(image)
    if finding.name == "pacemaker":
        centre = (rng.uniform(0.25, 0.28), rng.uniform(0.215, 0.245))
        metal = box(x, y, centre, (0.052, 0.042), 0.018, canvas.soft)
        lead = [(centre[0] - 0.04, centre[1] - 0.02), (0.14, 0.165), (0.03, 0.21), (-0.045, 0.34), (-0.05, 0.50)]
        for tip in ((-0.02, heart[1] - 0.03), (heart[0] + 0.06, heart[1] + 0.07)):
            metal = np.maximum(metal, 0.8 * polyline(x, y, [*lead, tip], canvas.thin, canvas.soft))
    elif finding.name == "central line":
        neck = rng.uniform(-0.12, -0.09)
        points = [(neck - 0.02, 0.0), (neck, 0.10), (-0.062, 0.22), (-0.050, 0.33), (-0.047, rng.uniform(0.42, 0.47))]
        metal = 0.8 * polyline(x, y, points, 1.25 * canvas.thin, canvas.soft)
    elif finding.name == "sternotomy wires":
        for index in range(6):
            centre = (rng.gauss(0.0, 0.004), 0.27 + 0.067 * index)
            loop = np.abs(np.sqrt(((x - centre[0]) / 1.25) ** 2 + (y - centre[1]) ** 2) - 0.016)
            metal = np.maximum(metal, 0.9 * step(canvas.thin - loop, canvas.soft))
    return image + (1.0 - image).clip(0) * 0.85 * metal


def _expose(a: Anatomy, image: Array, rng: np.random.Generator) -> np.ndarray:
    """Exposure, contrast and noise; the result as 8-bit grey."""
    image = (image - 0.45) * a.contrast + 0.47 + a.exposure * (image > 0.02)
    image = image + rng.normal(0.0, a.noise, image.shape).astype(np.float32)
    return (np.clip(image, 0.0, 1.0) * 255).round().astype(np.uint8)
