"""``comparison.html``: two runs or more beside each other, a single file that asks nothing of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from xraygpt.evaluation.comparison import Comparison
from xraygpt.evaluation.metrics.metric import Heading
from xraygpt.evaluation.page.curves import Curves, draw_curves
from xraygpt.evaluation.page.examples import Pictures, make_cards
from xraygpt.evaluation.page.report_page import (
    OF_ONE_REPORT,
    conditions,
    headline_metrics,
    reader,
    write_page,
)
from xraygpt.evaluation.predictions import Prediction


def write_comparison_page(
    comparison: Comparison,
    runs: Mapping[str, Sequence[Prediction]],
    protocol: Mapping[str, Any],
    *,
    output: Path,
    pictures: Pictures | None = None,
    curves: Mapping[str, Curves] | None = None,
    synthetic: bool = False,
) -> Path:
    """Write the page and return its path; every text on it is escaped.

    Args:
        comparison: of `runs`.
        runs: the predictions by the name of their run.
        protocol: the conditions of the comparison, as ``comparison.json`` has them.
        output: the file.
        pictures: gives the image of an image id; without it the reports stand alone.
        curves: trainings, by name, whose losses are laid over each other in one chart.
        synthetic: all images are phantoms, drawn by this project.
    """
    metrics = comparison.metrics
    phantoms = synthetic and "phantom_f1" in metrics
    headlines = headline_metrics(metrics, phantoms=phantoms)
    telling = next((metric for metric in headlines if comparison.most_different[metric.name]), None)
    different = comparison.most_different[telling.name] if telling else ()
    rows = {name: {row.image_id: row for row in of_run} for name, of_run in runs.items()}
    images = [{name: of_run[each.image_id] for name, of_run in rows.items()} for each in different]
    of_one = [metrics[name] for name in OF_ONE_REPORT if name in metrics]
    read = reader(comparison.language, phantoms=phantoms)
    return write_page(
        output,
        "comparison_page.html",
        comparison=comparison,
        synthetic=synthetic,
        headlines=headlines,
        groups={head: [m for m in metrics.values() if m.heading == head] for head in get_args(Heading)},
        overlay=draw_curves(curves or {}),
        telling=telling,
        examples=make_cards([(image, "different") for image in images], of_one, pictures, read),
        different=different,
        marked=read is not None,
        conditions=conditions(protocol),
        not_computed=comparison.not_computed,
    )
