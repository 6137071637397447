"""Inverted chests are told from their pixels."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from xraygpt.datasets.phantom.render import render
from xraygpt.datasets.phantom.truth import draw_truth
from xraygpt.pictures.grey import CERTAIN, looks_inverted, polarity


@pytest.mark.parametrize("seed", range(6))
def test_phantoms_are_recognised_either_way(seed: int) -> None:
    rng = random.Random(seed)
    pixels = render(draw_truth(rng), rng, 96)
    image, inverted = Image.fromarray(pixels), Image.fromarray(255 - pixels)
    assert polarity(image) > CERTAIN
    assert polarity(inverted) == pytest.approx(-polarity(image), abs=0.05)
    assert (looks_inverted(image), looks_inverted(inverted)) == (False, True)


def test_nothing_is_claimed_of_other_pictures() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 80), dtype=np.uint8)
    for pixels in (noise, 255 - noise, np.zeros((5, 5), np.uint8)):
        assert not looks_inverted(Image.fromarray(pixels))
