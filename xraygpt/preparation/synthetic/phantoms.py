"""Phantoms with their reports: as a source, for synthetic raw data, and on a contact sheet."""

from __future__ import annotations

import gzip
import io
import random
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from xraygpt.datasets.phantom.render import phantom_rng, phantom_truth, render, render_phantom
from xraygpt.datasets.phantom.report import write_report
from xraygpt.datasets.phantom.truth import Truth, all_findings, draw_truth
from xraygpt.preparation.study import Picture, Study, Unusable

MOST_RENDERED = 500
RENDERED_BYTES = 128 << 20
"""Rendered phantoms are kept in memory; no more of them than this unless a number is asked for."""
JPEG_QUALITY = 90
NOISE = 6
"""Largest noise that an image has of its own, in grey levels of 255."""
COLUMNS = 6
"""Of the contact sheet, as the following."""
COMBINATIONS = 7
CAPTION_LINES = 3
TITLE = "Synthetic radiographs, drawn by a program; none is of a patient"
MARK = "synthetic"


class PhantomReport(NamedTuple):
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
    """

    def __init__(self, seed: int, size: int, distinct: int | None = None) -> None:
        if distinct is None:
            distinct = max(1, min(MOST_RENDERED, RENDERED_BYTES // size**2))
        self.seed = seed
        self.size = size
        self.distinct = distinct
        self._rendered: dict[int, np.ndarray] = {}

    def rng(self, purpose: str, index: int) -> random.Random:
        """Return the generator for one purpose and one index; generators are independent."""
        return random.Random(f"phantom tree {self.seed} {purpose} {index}")

    def report(self, index: int) -> PhantomReport:
        """Write the report of study `index`."""
        truth = draw_truth(self.rng("truth", index % self.distinct))
        return PhantomReport(truth, **_sections(write_report(truth, self.rng("report", index))))

    def film(self, index: int, view: int = 0, *, lateral: bool = False) -> np.ndarray:
        """Return an image of study `index`.

        There are no lateral phantoms; a frontal one at half its width stands for them.

        Returns:
            uint8 (size, size), or (size, size // 2) for a lateral one.
        """
        phantom = index % self.distinct
        if phantom not in self._rendered:
            truth = draw_truth(self.rng("truth", phantom))
            self._rendered[phantom] = render(truth, self.rng("image", phantom), self.size)
        image = self._rendered[phantom]
        if lateral:
            image = image[:, : self.size // 2 * 2 : 2]
        rng = np.random.default_rng(self.rng(f"noise {view}", index).getrandbits(64))
        noise = rng.integers(-NOISE, NOISE + 1, image.shape, np.int8)
        return np.clip(image + noise.astype(np.int16), 0, 255).astype(np.uint8)


def _sections(report: str) -> dict[str, str]:
    findings, _, impression = report.removeprefix("Findings: ").partition(" Impression: ")
    return {"findings": findings, "impression": impression}


@contextmanager
def packed(path: Path) -> Iterator[gzip.GzipFile]:
    """Open a file that is compressed by gzip for writing, with no name and no time in it."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        yield file


def encode(image: np.ndarray, kind: str) -> bytes:
    """Return a grey image, uint8 (H, W), as the content of a file of kind ``JPEG`` or ``PNG``."""
    file = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if kind == "JPEG" else {}
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


class PhantomSource:
    """The first phantoms of a seed, the same as the builder ``phantom`` gives for it.

    Args:
        seed: another seed gives other phantoms.
        count: number of phantoms.
        size: side of the images in pixels, 64 or more.
    """

    name = "phantom"

    def __init__(self, seed: int, count: int, size: int) -> None:
        self.seed = seed
        self.size = size
        self.names = [f"phantom-{seed}-{index}" for index in range(count)]
        self.skipped_members: list[Unusable] = []

    def studies(self) -> Iterator[Study]:
        """Yield the phantoms by number."""
        for index, name in enumerate(self.names):
            report = write_report(phantom_truth(self.seed, index), phantom_rng(self.seed, index, "report"))
            yield Study(name, _sections(report), (Picture(name, None, "PA"),))

    def picture_files(self, wanted: frozenset[str]) -> Iterator[tuple[str, bytes]]:
        """Render the wanted phantoms; yield each with its id, as a PNG file."""
        for index, name in enumerate(self.names):
            if name in wanted:
                yield name, encode(render_phantom(self.seed, index, self.size), "PNG")


def contact_sheet(size: int, seed: int) -> Image.Image:
    """Draw a normal chest, each finding alone, and some combinations, each labelled and marked synthetic.

    Args:
        size: side of each radiograph in pixels; 64 or more.
        seed: another seed gives other patients.
    """
    drawn = (phantom_truth(seed, index) for index in count())
    combinations = islice((truth for truth in drawn if len(truth) > 1), COMBINATIONS)
    truths: list[Truth] = [(), *((finding,) for finding in all_findings()), *combinations]
    letter = max(8, size // 18)
    line = round(1.35 * letter)
    font = ImageFont.load_default(letter)
    height = size + CAPTION_LINES * line
    sheet = Image.new("L", (COLUMNS * size, 2 * line + -(-len(truths) // COLUMNS) * height))
    ImageDraw.Draw(sheet).text((line // 2, line // 2), TITLE, fill=255, font=font)
    for index, truth in enumerate(truths):
        tile = Image.new("L", (size, height))
        film = render(truth, random.Random(f"sheet {seed} {index}"), size)
        tile.paste(Image.fromarray(film), (0, CAPTION_LINES * line))
        draw = ImageDraw.Draw(tile)
        caption = ", ".join(finding.phrase for finding in truth) or "normal"
        lines = textwrap.wrap(caption, int(size / (0.52 * letter)))[:CAPTION_LINES]
        for number, text in enumerate(reversed(lines), start=1):  # close to its own image
            draw.text((2, (CAPTION_LINES - number) * line), text, fill=255, font=font)
        draw.text((2, size + (CAPTION_LINES - 1) * line), MARK, fill=200, font=font)
        sheet.paste(tile, ((index % COLUMNS) * size, 2 * line + (index // COLUMNS) * height))
    return sheet
