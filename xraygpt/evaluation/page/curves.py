"""Loss curves: from the ``metrics.jsonl`` of one run or of several to a chart, drawn as SVG by matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import parse_json, read_text
from xraygpt.evaluation.metrics.metric import Array

MAX_POINTS = 200
METRICS_FILE = "metrics.jsonl"
"""As `xraygpt.common.logger` calls it, which needs PyTorch; scoring does not."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b3589a", "#9a7d0a", "#3a9ad0")
"""Told apart by colour-blind people too, on paper and on black; after the last, lines are dashed."""
INK = "#5d6878"
"""Of axes and words; in the page it becomes the colour of the text around the chart."""
COLOURED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
DRAWING: dict[Any, Any] = {
    **dict.fromkeys(COLOURED, INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.alpha": 0.25,
    "ytick.major.size": 0,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "figure.figsize": (5.2, 2.8),
    "svg.fonttype": "none",  # words stay text
    "svg.hashsalt": "xraygpt",  # the same file for the same losses
}
FOR_A_FILE = re.compile(r'<style.*?</style>| id="[a-z0-9.]+_\d+"', re.DOTALL)
"""What is wrong in a page with other charts: rules for all of the page, names like ``axes_1``."""

Point = tuple[float, float]
"""Step and loss."""


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
    colour: str
    last_valid: float | None
    """The last validation loss."""


class Chart(NamedTuple):
    """Runs on the same axes."""

    svg: Markup
    lines: list[Line]


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


def draw_curves(runs: Mapping[str, Curves]) -> Chart | None:
    """Draw runs on the same axes: training as a thin line, validation with dots; None without any loss.

    The vertical axis begins at the lowest loss, not at 0.
    """
    runs = {name: curves for name, curves in runs.items() if curves.train or curves.valid}
    if not runs:
        return None
    from matplotlib import style  # takes half a second, and most pages have no curves
    from matplotlib.figure import Figure

    lines = []
    with style.context(["default", DRAWING]):  # whatever the user has set
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        for number, (name, curves) in enumerate(runs.items()):
            colour = COLOURS[number % len(COLOURS)]
            look: dict[str, Any] = {"color": colour, "linestyle": "-" if number < len(COLOURS) else "--"}
            axes.plot(*np.reshape(_thinned(curves.train), (-1, 2)).T, linewidth=0.8, alpha=0.55, **look)
            axes.plot(*np.reshape(curves.valid, (-1, 2)).T, marker="o", markersize=3.5, **look)
            lines.append(Line(name, colour, curves.valid[-1][1] if curves.valid else None))
        axes.set(xlabel="step", ylabel="loss", xlim=(0, None))
        file = io.StringIO()
        about = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # nothing that differs by day or version
        figure.savefig(file, format="svg", transparent=True, metadata=about)
    head, _, drawn = file.getvalue().partition("<svg")[2].partition(">")
    size = head[head.index("viewBox=") :].split('"')[1]
    drawn = FOR_A_FILE.sub("", drawn).replace(INK, "currentColor")
    return Chart(Markup(f'<svg viewBox="{size}">{drawn}'), lines)


def _thinned(points: Sequence[Point]) -> list[Array]:
    """Return means over neighbours, at most `MAX_POINTS` of them."""
    size = -(-len(points) // MAX_POINTS) or 1
    return [np.mean(points[i : i + size], axis=0) for i in range(0, len(points), size)]
