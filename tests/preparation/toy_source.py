"""A source of a few synthetic studies, held in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from xraygpt.preparation.study import Picture, Study, Unusable

FINDINGS = "The heart is normal in size and the lungs are clear. There is a small left pleural effusion."
IMPRESSION = "Small left pleural effusion."


class ToySource:
    """Hands out the items it was made with."""

    name = "toy"

    def __init__(self, items: Sequence[Study | Unusable]) -> None:
        self.items = items

    def studies(self) -> Iterator[Study | Unusable]:
        yield from self.items


def toy_study(folder: Path, number: int, *, findings: str = FINDINGS, **changes: str | None) -> Study:
    """Return a study with one image, which is written to `folder`."""
    name = f"s{number}"
    file = folder / f"{name}.png"
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (40, 30), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    sections = {"findings": findings, "impression": IMPRESSION}
    return Study(name, sections, (Picture(f"i{number}", file, "PA"),), **changes)  # type: ignore[arg-type]


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder by its relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
