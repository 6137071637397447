"""Loss curves: from the ``metrics.jsonl`` of one or of several runs to the coordinates of a line chart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import parse_json, read_text

WIDTH, HEIGHT = 400, 220
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 10, 26
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


@dataclass(frozen=True)
class Line:
    """One run in a chart."""

    name: str
    train: list[Point]
    valid: list[Point]
    last_valid: float | None
    """The last validation loss."""


@dataclass(frozen=True)
class Chart:
    """Coordinates in a box of `WIDTH` x `HEIGHT`, y downwards."""

    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def read_runs(paths: Sequence[Path]) -> dict[str, Curves]:
    """Read the losses of several trainings, to be laid over each other.

    Args:
        paths: output folders, or metrics files in them.

    Returns:
        Name of the folder -> losses; the path where two folders have the same name.

    Raises:
        MissingFileError, DataError: see `read_curves`; a run without any loss.
    """
    folders = [path if path.is_dir() or path.suffix != ".jsonl" else path.parent for path in paths]
    names = [folder.resolve().name for folder in folders]
    runs = {}
    for path, folder, name in zip(paths, folders, names, strict=True):
        file = folder / METRICS_FILE if folder == path else path
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
    thinned = {name: _thinned(curves.train) for name, curves in runs.items()}
    points = [point for name, curves in runs.items() for point in (*thinned[name], *curves.valid)]
    if not points:
        return None
    steps, losses = zip(*points, strict=True)
    x_ticks, y_ticks = nice_ticks(0, max(steps)), nice_ticks(min(losses), max(losses))
    low = min(*losses, *y_ticks)
    high = max(*losses, *y_ticks, low + 1e-9)
    x_scale = (WIDTH - LEFT - RIGHT) / max(steps)
    y_scale = (HEIGHT - TOP - BOTTOM) / (high - low)

    def place(point: Point) -> Point:
        return round(LEFT + point[0] * x_scale, 1), round(TOP + (high - point[1]) * y_scale, 1)

    return Chart(
        lines=[
            Line(
                name,
                train=[place(point) for point in thinned[name]],
                valid=[place(point) for point in curves.valid],
                last_valid=curves.valid[-1][1] if curves.valid else None,
            )
            for name, curves in runs.items()
        ],
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
