"""Loss curves: from a run's ``metrics.jsonl`` to the coordinates of a small line chart."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError, MissingFileError

WIDTH, HEIGHT = 400, 220
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 10, 26
MAX_POINTS = 200
TICKS = 4

Point = tuple[float, float]
"""Step and loss, or x and y in the chart."""


@dataclass(frozen=True)
class Curves:
    """The losses of one training; those that are not finite are left out."""

    train: list[Point]
    valid: list[Point]


@dataclass(frozen=True)
class RunSummary:
    """One of the runs that led to an evaluation."""

    name: str
    seconds: float
    curves: Curves | None
    """None for a run without training."""


@dataclass(frozen=True)
class Chart:
    """Coordinates in a box of `WIDTH` x `HEIGHT`, y downwards."""

    train: list[Point]
    valid: list[Point]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def read_curves(metrics: Path) -> Curves:
    """Read the training and validation losses from a metrics file.

    Raises:
        MissingFileError, DataError: the file is absent; a line is not what a training writes.
    """
    if not metrics.is_file():
        raise MissingFileError(f"missing file: {metrics}\n  comes from:  a training with this output folder")
    points: dict[str, list[Point]] = {"train": [], "valid": []}
    for number, line in enumerate(metrics.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record: dict[str, Any] = json.loads(line)
            event, step, loss = record["event"], float(record["step"]), record.get("loss")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{metrics}, line {number}: not a line of a training's metrics") from error
        if event in points and loss is not None:
            points[event].append((step, float(loss)))
    return Curves(points["train"], points["valid"])


def draw_chart(curves: Curves) -> Chart | None:
    """Lay the curves out; None without any point. The vertical axis begins at the lowest loss, not at 0."""
    train = _thinned(curves.train)
    steps, losses = zip(*train, *curves.valid, strict=True) if train or curves.valid else ((), ())
    if not steps:
        return None
    x_ticks, y_ticks = nice_ticks(0, max(steps)), nice_ticks(min(losses), max(losses))
    low = min(*losses, *y_ticks)
    high = max(*losses, *y_ticks, low + 1e-9)
    x_scale = (WIDTH - LEFT - RIGHT) / max(steps)
    y_scale = (HEIGHT - TOP - BOTTOM) / (high - low)

    def place(point: Point) -> Point:
        return round(LEFT + point[0] * x_scale, 1), round(TOP + (high - point[1]) * y_scale, 1)

    return Chart(
        train=[place(point) for point in train],
        valid=[place(point) for point in curves.valid],
        x_ticks=[(place((tick, low))[0], f"{tick:g}") for tick in x_ticks],
        y_ticks=[(place((0, tick))[1], f"{tick:g}") for tick in y_ticks],
    )


def nice_ticks(low: float, high: float) -> list[float]:
    """Return some round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Return means over neighbours, at most `MAX_POINTS` of them."""
    size = -(-len(points) // MAX_POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(s for s, _ in g) / len(g), sum(v for _, v in g) / len(g)) for g in groups]
