"""Phantoms with their reports: as a source, and as what the synthetic trees are made of."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.datasets.phantom.render import phantom_rng, phantom_truth, render, render_phantom
from xraygpt.datasets.phantom.report import write_report
from xraygpt.datasets.phantom.truth import Truth, draw_truth
from xraygpt.preparation.study import Picture, Study, Unusable

SEED = 301
"""No shipped configuration trains or evaluates on phantoms of this seed."""
SMALLEST_SIZE = 64
MOST_RENDERED = 500
RENDERED_BYTES = 128 << 20
"""Rendered phantoms are kept in memory; no more of them than this unless a number is asked for."""
NOTICE_FILE = "SYNTHETIC.txt"
NOTICE = """\
Everything in this folder is synthetic. The images are drawn by a program (phantoms), the reports are put
together from a few dozen sentences written for the purpose, and all numbers, dates and labels are drawn at
random. Nothing was taken from a patient or from a collection of medical data; only the names and the form of
the files follow %s. Not for any clinical use.
"""
JPEG_QUALITY = 90
NOISE = 6
"""Largest noise that an image has of its own, in grey levels of 255."""
SECTIONS = re.compile(r"Findings: (?P<findings>.*) Impression: (?P<impression>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PhantomReport:
    """What a phantom shows, and the report of it."""

    truth: Truth
    findings: str
    impression: str


class Phantoms:
    """The phantoms behind a tree.

    Args:
        seed: another seed gives other phantoms.
        size: side of an image in pixels, 64 or more.
        distinct: number of phantoms that are rendered; None for 500, or fewer if they are large. Study
            ``i`` shows phantom ``i % distinct``; its report is phrased anew, and each of its images has noise
            of its own, so that no two have equal pixels.

    Raises:
        DataError: `size` or `distinct` is too small.
    """

    def __init__(self, seed: int, size: int, distinct: int | None = None) -> None:
        if size < SMALLEST_SIZE:
            raise DataError(f"phantoms need a side of {SMALLEST_SIZE} pixels or more, not {size}")
        if distinct is None:
            distinct = max(1, min(MOST_RENDERED, RENDERED_BYTES // size**2))
        if distinct < 1:
            raise DataError(f"the number of distinct images must be at least 1, not {distinct}")
        self.seed = seed
        self.size = size
        self.distinct = distinct
        self._rendered: dict[int, np.ndarray] = {}

    def rng(self, purpose: str, index: int) -> random.Random:
        """Return the generator for one purpose and one index; generators are independent."""
        return random.Random(f"phantom tree {self.seed} {purpose} {index}")

    def report(self, index: int) -> PhantomReport:
        """Write the report of study `index`."""
        truth = self._truth(index % self.distinct)
        text = write_report(truth, self.rng("report", index))
        findings, _, impression = text.removeprefix("Findings: ").partition(" Impression: ")
        return PhantomReport(truth, findings, impression)

    def film(self, index: int, view: int = 0, *, lateral: bool = False) -> np.ndarray:
        """Return an image of study `index`.

        There are no lateral phantoms; a frontal one at half its width stands for them.

        Returns:
            uint8 (size, size), or (size, size // 2) for a lateral one.
        """
        phantom = index % self.distinct
        if phantom not in self._rendered:
            self._rendered[phantom] = render(self._truth(phantom), self.rng("image", phantom), self.size)
        image = self._rendered[phantom]
        if lateral:
            image = image[:, : self.size // 2 * 2 : 2]
        rng = np.random.default_rng(self.rng(f"noise {view}", index).getrandbits(64))
        noise = rng.integers(-NOISE, NOISE + 1, image.shape, np.int8)
        return np.clip(image + noise.astype(np.int16), 0, 255).astype(np.uint8)

    def _truth(self, phantom: int) -> Truth:
        return draw_truth(self.rng("truth", phantom))


def encode(image: np.ndarray, kind: str) -> bytes:
    """Return a grey image, uint8 (H, W), as the content of a file of kind ``JPEG`` or ``PNG``."""
    file = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if kind == "JPEG" else {}
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def new_tree(folder: Path, collection: str, studies: int) -> None:
    """Make a folder and put the notice into it.

    Raises:
        DataError: there is something in it, or no study is asked for.
    """
    if studies < 1:
        raise DataError(f"a synthetic collection needs at least one study, not {studies}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is there and not an empty folder; name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NOTICE_FILE).write_text(NOTICE % collection, encoding="utf-8")


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
