"""Example radiographs for the demo: phantoms, drawn when the demo starts."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from xraygpt.datasets.phantom.render import render
from xraygpt.datasets.phantom.truth import Finding, Truth

SIZE = 256
SHOWN: tuple[Truth, ...] = (
    (),
    (Finding("cardiomegaly"),),
    (Finding("pleural effusion", side="left", size="large"),),
    (Finding("pneumothorax", side="right", size="large"),),
    (Finding("consolidation", side="left", zone="upper"),),
    (Finding("pacemaker"), Finding("pulmonary edema")),
)


@dataclass(frozen=True)
class Example:
    """A synthetic radiograph and what it truly shows."""

    image: Image.Image
    caption: str


def make_examples() -> list[Example]:
    """Draw the examples, the same at every start."""
    return [
        Example(
            image=Image.fromarray(render(truth, random.Random(f"demo example {number}"), SIZE)),
            caption=", ".join(finding.phrase for finding in truth) or "normal",
        )
        for number, truth in enumerate(SHOWN)
    ]
