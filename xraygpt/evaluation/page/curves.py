"""Loss curves: from the ``metrics.jsonl`` of one or of several runs to the coordinates of a line chart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import parse_json, read_text

LEFT, RIGHT, TOP, BOTTOM = 40, 388, 10, 194
"""Where the axes of a chart are."""
MAX_POINTS = 200
TICKS = 4
METRICS_FILE = "metrics.jsonl"
"""As `xraygpt.common.logger` calls it, which needs PyTorch; scoring does not."""

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


class Line(NamedTuple):
    """One run in a chart."""

    name: str
    train: list[Point]
    valid: list[Point]
    last_valid: float | None
    """The last validation loss."""


@dataclass(frozen=True)
class Chart:
    """Coordinates in a box, y downwards, and the size of the box in the same units."""

    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    width: int = 400
    height: int = 220
    left: int = LEFT
    right: int = RIGHT
    bottom: int = BOTTOM


def read_runs(paths: Sequence[Path]) -> dict[str, Curves]:
    """Read the losses of several trainings from their output folders, or metrics files in them.

    Returns:
        Name of the folder -> losses; the path where two folders have the same name.

    Raises:
        MissingFileError, DataError: see `read_curves`; a run without any loss.
    """
    files = [path if path.suffix == ".jsonl" and not path.is_dir() else path / METRICS_FILE for path in paths]
    names = [file.parent.resolve().name for file in files]
    runs = {}
    for path, file, name in zip(paths, files, names, strict=True):
        curves = read_curves(file)
        if not curves.train and not curves.valid:
            raise DataError(f"{file}: holds no loss to draw; name a training")
        runs[name if names.count(name) == 1 else str(path)] = curves
    return runs


def read_curves(metrics: Path) -> Curves:
    """Read the training and validation losses from a metrics file.

    Raises:
        MissingFileError, DataError: the file is absent; a line is not what a training writes.
    """
    if not metrics.is_file():
        raise MissingFileError(f"missing file: {metrics}\n  comes from:  a training with this output folder")
    points: dict[str, list[Point]] = {"train": [], "valid": []}
    for number, line in enumerate(read_text(metrics).splitlines(), start=1):
        record: Any = parse_json(line, f"{metrics}, line {number}")
        try:
            event, step, loss = record["event"], float(record["step"]), record.get("loss")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{metrics}, line {number}: not a line of a training's metrics") from error
        if event in points and loss is not None:
            points[event].append((step, float(loss)))
    return Curves(points["train"], points["valid"])


def draw_chart(runs: Mapping[str, Curves]) -> Chart | None:
    """Lay the curves of runs over each other; None without any point.

    The vertical axis begins at the lowest loss, not at 0.
    """
    thinned = {name: Curves(_thinned(curves.train), curves.valid) for name, curves in runs.items()}
    points = [point for curves in thinned.values() for point in (*curves.train, *curves.valid)]
    if not points:
        return None
    steps, losses = zip(*points, strict=True)
    x_ticks, y_ticks = nice_ticks(0, max(steps)), nice_ticks(min(losses), max(losses))
    low = min(*losses, *y_ticks)
    high = max(*losses, *y_ticks, low + 1e-9)
    x_scale = (RIGHT - LEFT) / max(steps)
    y_scale = (BOTTOM - TOP) / (high - low)

    def place(step: float, loss: float) -> Point:
        return round(LEFT + step * x_scale, 1), round(TOP + (high - loss) * y_scale, 1)

    def line(name: str, curves: Curves) -> Line:
        train, valid = ([place(*point) for point in points] for points in (curves.train, curves.valid))
        return Line(name, train, valid, curves.valid[-1][1] if curves.valid else None)

    return Chart(
        lines=[line(name, curves) for name, curves in thinned.items()],
        x_ticks=[(place(tick, low)[0], f"{tick:g}") for tick in x_ticks],
        y_ticks=[(place(0, tick)[1], f"{tick:g}") for tick in y_ticks],
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
