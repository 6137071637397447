"""A contact sheet of synthetic radiographs: what each finding looks like."""

from __future__ import annotations

import random
import textwrap
from itertools import count, islice

from PIL import Image, ImageDraw, ImageFont

from xraygpt.datasets.phantom.render import phantom_truth, render
from xraygpt.datasets.phantom.truth import Truth, all_findings

COLUMNS = 6
COMBINATIONS = 7
CAPTION_LINES = 3
TITLE = "Synthetic radiographs, drawn by a program; none is of a patient"
MARK = "synthetic"


def contact_sheet(size: int, seed: int) -> Image.Image:
    """Draw a normal chest, each finding alone, and some combinations, each labelled and marked synthetic.

    Args:
        size: side of each radiograph in pixels; 64 or more.
        seed: another seed gives other patients.
    """
    truths: list[Truth] = [(), *((finding,) for finding in all_findings()), *_combinations(seed)]
    letter = max(8, size // 18)
    line = round(1.35 * letter)
    height = size + CAPTION_LINES * line
    rows = -(-len(truths) // COLUMNS)
    sheet = Image.new("L", (COLUMNS * size, 2 * line + rows * height))
    ImageDraw.Draw(sheet).text((line // 2, line // 2), TITLE, fill=255, font=ImageFont.load_default(letter))
    for index, truth in enumerate(truths):
        tile = _tile(truth, random.Random(f"sheet {seed} {index}"), size, letter, line)
        sheet.paste(tile, ((index % COLUMNS) * size, 2 * line + (index // COLUMNS) * height))
    return sheet


def _combinations(seed: int) -> list[Truth]:
    drawn = (phantom_truth(seed, index) for index in count())
    return list(islice((truth for truth in drawn if len(truth) > 1), COMBINATIONS))


def _tile(truth: Truth, rng: random.Random, size: int, letter: int, line: int) -> Image.Image:
    font = ImageFont.load_default(letter)
    tile = Image.new("L", (size, size + CAPTION_LINES * line))
    tile.paste(Image.fromarray(render(truth, rng, size)), (0, CAPTION_LINES * line))
    draw = ImageDraw.Draw(tile)
    caption = ", ".join(finding.phrase for finding in truth) or "normal"
    lines = textwrap.wrap(caption, int(size / (0.52 * letter)))[:CAPTION_LINES]
    for number, text in enumerate(reversed(lines), start=1):  # close to its own image
        draw.text((2, (CAPTION_LINES - number) * line), text, fill=255, font=font)
    draw.text((2, size + (CAPTION_LINES - 1) * line), MARK, fill=200, font=font)
    return tile
