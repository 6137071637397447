"""Synthetic radiographs as a source: what the quickstart draws on the fly, as a folder of files."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from PIL import Image

from xraygpt.datasets.phantom.patients import phantom_rng, phantom_truth, render_phantom
from xraygpt.datasets.phantom.report import write_report
from xraygpt.preparation.study import Picture, Study, Unusable

SECTIONS = re.compile(r"Findings: (?P<findings>.*) Impression: (?P<impression>.*)", re.DOTALL)


class PhantomSource:
    """The first phantoms of a seed, the same as the builder ``phantom`` gives for it.

    Args:
        seed: another seed gives other phantoms.
        count: number of phantoms.
        size: side of the images in pixels, 64 or more.
        split: the split of all of them; None to draw splits.
    """

    name = "phantom"

    def __init__(self, seed: int, count: int, size: int, split: str | None = None) -> None:
        self.seed = seed
        self.count = count
        self.size = size
        self.split = split
        self.skipped_members: list[Unusable] = []

    def studies(self) -> Iterator[Study]:
        """Yield the phantoms by number."""
        for index in range(self.count):
            name = f"phantom-{self.seed}-{index}"
            report = write_report(phantom_truth(self.seed, index), phantom_rng(self.seed, index, "report"))
            sections = SECTIONS.fullmatch(report)
            assert sections is not None, report
            yield Study(name, sections.groupdict(), (Picture(name, None, "PA"),), split=self.split)

    def picture_files(self, wanted: frozenset[str]) -> Iterator[tuple[str, bytes]]:
        """Render the wanted phantoms; yield each with its id, as a PNG file."""
        for index in range(self.count):
            name = f"phantom-{self.seed}-{index}"
            if name in wanted:
                file = io.BytesIO()
                Image.fromarray(render_phantom(self.seed, index, self.size)).save(file, "PNG")
                yield name, file.getvalue()
