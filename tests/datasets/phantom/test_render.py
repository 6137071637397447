"""What each finding does to the image. The patient's left is the right half of the image.

A phantom with one finding is compared with the normal phantom of the same generator: the same patient, the
same exposure, the same noise.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from xraygpt.datasets.phantom.render import render, render_phantom
from xraygpt.datasets.phantom.truth import Finding, all_findings

SIZE = 96
PATIENTS = range(5)
CARDIOMEGALY = Finding("cardiomegaly")
OPPOSITE = {"left": "right", "right": "left"}


def film(patient: int, *truth: Finding) -> np.ndarray:
    return render(truth, random.Random(patient), SIZE).astype(float)


def difference(patient: int, finding: Finding) -> np.ndarray:
    return film(patient, finding) - film(patient)


def region(image: np.ndarray, rows: tuple[float, float], columns: tuple[float, float]) -> np.ndarray:
    (top, bottom), (left, right) = ((round(a * SIZE), round(b * SIZE)) for a, b in (rows, columns))
    return image[top:bottom, left:right]


def half(image: np.ndarray, side: str) -> np.ndarray:
    """The lateral 40 % of the image on one side of the patient."""
    return region(image, (0, 1), (0.6, 1.0) if side == "left" else (0.0, 0.4))


@pytest.mark.parametrize("finding", all_findings(), ids=lambda f: f.phrase)
def test_every_finding_shows(finding: Finding) -> None:
    for patient in PATIENTS:
        assert (np.abs(difference(patient, finding)) > 20).sum() >= 12


def test_same_generator_gives_the_same_image() -> None:
    image = render_phantom(3, 5, 64)
    assert (image.shape, image.dtype) == ((64, 64), np.uint8)
    assert np.array_equal(image, render_phantom(3, 5, 64))
    assert not np.array_equal(image, render_phantom(3, 6, 64))
    assert not np.array_equal(image, render_phantom(4, 5, 64))


def test_image_has_air_tissue_and_bone() -> None:
    for patient in PATIENTS:
        image = film(patient)
        assert image.min() < 15
        assert image.max() > 150
        lung, spine = region(image, (0.35, 0.5), (0.72, 0.78)), region(image, (0.35, 0.5), (0.48, 0.52))
        assert lung.mean() + 30 < spine.mean()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", ["small", "moderate", "large"])
def test_effusion_brightens_the_base_of_its_side(side: str, size: str) -> None:
    for patient in PATIENTS:
        change = difference(patient, Finding("pleural effusion", side=side, size=size))
        rows, _ = np.nonzero(half(change, side) > 15)
        assert len(rows) > 0
        assert 0.4 < rows.mean() / SIZE < 0.95
        assert not half(change, OPPOSITE[side]).any()


@pytest.mark.parametrize("side", ["left", "right"])
def test_larger_effusions_reach_higher(side: str) -> None:
    for patient in PATIENTS:
        films = [
            difference(patient, Finding("pleural effusion", side=side, size=size))
            for size in ("small", "moderate", "large")
        ]
        areas = [int((change > 15).sum()) for change in films]
        assert areas[0] * 2 < areas[1] < 0.8 * areas[2]


@pytest.mark.parametrize("side", ["left", "right"])
def test_pneumothorax_darkens_the_edge_of_its_side(side: str) -> None:
    for patient in PATIENTS:
        small, large = (
            half(film(patient, Finding("pneumothorax", side=side, size=size)), side)
            for size in ("small", "large")
        )
        normal = half(film(patient), side)
        dark = [int((image < 40).sum()) for image in (normal, small, large)]
        assert dark[0] < dark[1] < dark[2]


@pytest.mark.parametrize("name", ["consolidation", "nodule"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_opacity_lies_in_its_zone(name: str, side: str) -> None:
    for patient in PATIENTS:
        heights = []
        for zone in ("upper", "mid", "lower"):
            change = difference(patient, Finding(name, side=side, zone=zone))
            rows, columns = np.nonzero(change > 20)
            assert (columns.mean() > SIZE / 2) == (side == "left")
            assert not half(change, OPPOSITE[side]).any()
            heights.append(rows.mean() / SIZE)
        assert heights[0] + 0.08 < heights[1] < heights[2] - 0.08


def test_cardiomegaly_widens_the_heart() -> None:
    for patient in PATIENTS:
        normal, large = (
            region(image, (0.56, 0.64), (0.2, 0.8)) for image in (film(patient), film(patient, CARDIOMEGALY))
        )
        widths = [(image > 130).sum(axis=1).mean() for image in (normal, large)]
        assert widths[1] > 1.2 * widths[0]


def test_edema_brightens_both_lungs() -> None:
    for patient in PATIENTS:
        change = difference(patient, Finding("pulmonary edema"))
        for columns in ((0.28, 0.42), (0.6, 0.74)):
            assert region(change, (0.35, 0.6), columns).mean() > 10


def test_hyperinflation_lowers_the_diaphragm() -> None:
    for patient in PATIENTS:
        change = difference(patient, Finding("hyperinflation"))
        for columns in ((0.25, 0.4), (0.65, 0.75)):
            assert region(change, (0.77, 0.82), columns).mean() < -20


@pytest.mark.parametrize(
    ("name", "rows", "columns", "share"),
    [
        ("pacemaker", (0.1, 0.35), (0.65, 0.9), 0.3),  # its leads run to the heart
        ("central line", (0.05, 0.45), (0.3, 0.5), 0.6),
        ("sternotomy wires", (0.2, 0.7), (0.4, 0.6), 0.9),
    ],
)
def test_devices_are_metal_in_their_place(
    name: str, rows: tuple[float, float], columns: tuple[float, float], share: float
) -> None:
    for patient in PATIENTS:
        change = difference(patient, Finding(name))
        inside = region(change, rows, columns)
        assert (inside > 30).sum() > share * (change > 30).sum()
        assert inside.max() > 60
