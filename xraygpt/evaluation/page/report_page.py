"""``report.html`` about the reports of a run, and ``comparison.html`` about those of several.

Each is a single file that asks nothing of a network. The layouts are ``report_page.html`` and
``comparison_page.html`` beside this file, which read the results as they are computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jinja2 import PackageLoader

from xraygpt.common.html_page import page_environment
from xraygpt.common.run_record import write_text
from xraygpt.evaluation.comparison import Comparison
from xraygpt.evaluation.language import LanguageCheck
from xraygpt.evaluation.metrics.metric import Heading, Metric, count_set_matches
from xraygpt.evaluation.metrics.phantom import extract_findings
from xraygpt.evaluation.page.curves import Curves, RunSummary, draw_curves
from xraygpt.evaluation.page.examples import (
    Pictures,
    Reader,
    choose_examples,
    make_cards,
    read_classes,
    read_phantom,
)
from xraygpt.evaluation.predictions import Prediction, units_of
from xraygpt.evaluation.protocol import UNKNOWN, paragraph
from xraygpt.evaluation.results import p_text
from xraygpt.evaluation.scoring import FindingScore, Scores, names_by_value, score_findings
from xraygpt.evaluation.statistics import Interval

NO_VALUE = "–"
HEADLINES = (
    "phantom_f1",
    "rule_f1_micro_14",
    "phantom_exact",
    "laterality_f1",
    "cider_d",
    "bleu_4",
    "rouge_l",
    "meteor",
)
"""The first that was computed is the page's first figure, the others stand below it."""
MOST_IN_SUBGROUPS = 4
"""Scores beside each other in the table of subgroups; more do not fit on a page."""
OF_ONE_REPORT = ("phantom_f1", "rule_f1_micro_14", "laterality_f1", "rouge_l")
"""Metrics that say something of a single report; each example tells them."""
EXAMPLES = 24
CONSTANT = "No better than {}: a constant report reaches as much in this score."
REACHED = {
    "shuffled": "No better than {}: this score is no sign that the reports depend on the images.",
    "blind": CONSTANT,
    "blind_bound": CONSTANT,
}
"""What it means that a control scores as high."""
NO_BETTER = "No better than {}."
NEAR = "The interval reaches to {}: the score may be no better."


def write_report_page(
    scores: Scores,
    predictions: Sequence[Prediction],
    protocol: Mapping[str, Any],
    *,
    output: Path,
    pictures: Pictures | None = None,
    curves: Mapping[str, Curves] | None = None,
    synthetic: bool = False,
    runs: Sequence[RunSummary] = (),
    examples: int = EXAMPLES,
    comparisons: Mapping[str, float] | None = None,
    settings: str = "",
) -> Path:
    """Write the page and return its path; every text on it is escaped.

    Args:
        scores: of `predictions`.
        output: the file.
        pictures: gives the image of an image id; without it the examples have none.
        curves: trainings, by name, whose losses are laid over each other in one chart.
        synthetic: all images are phantoms, drawn by this project.
        runs: those that led to the reports.
        examples: how many images are shown with both reports.
        comparisons: what else the first score is to be held against: "untrained" -> its value.
        settings: of the evaluation, as text.
    """
    phantoms = synthetic and "phantom_f1" in scores.metrics
    headlines = headline_metrics(scores.metrics, phantoms=phantoms)
    first = headlines[0].name if headlines else ""
    compared = compared_values(scores, first, comparisons or {}) if headlines else {}
    of_one = [scores.metrics[name] for name in OF_ONE_REPORT if name in scores.metrics]
    chosen = choose_examples(predictions, scores.worst.get(first, ()), examples)
    read = reader(scores.language, phantoms=phantoms)
    metrics = scores.metrics.values()
    return write_page(
        output,
        "report_page.html",
        scores=scores,
        synthetic=synthetic,
        headlines=headlines,
        compared={name: Interval(value, math.nan, math.nan) for name, value in compared.items()},
        verdict=verdict(headlines[0], scores.scores[first], compared) if headlines else "",
        groups={heading: [m for m in metrics if m.heading == heading] for heading in get_args(Heading)},
        phantom_findings=_phantom_findings(scores, predictions) if phantoms else {},
        sides=scores.sides if any(sum(row.values()) for row in scores.sides.values()) else {},
        in_subgroups=headlines[:MOST_IN_SUBGROUPS],
        charts=[
            (run, chart) for run in runs if run.curves and (chart := draw_curves({run.name: run.curves}))
        ],
        overlay=draw_curves(curves or {}),
        runs=runs,
        examples=make_cards([({"Generated": row}, why) for row, why in chosen], of_one, pictures, read),
        of_one=of_one,
        marked=read is not None,
        protocol=protocol,
        conditions=conditions(protocol),
        not_computed=scores.not_computed,
        settings=settings,
    )


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


def write_page(output: Path, template: str, **values: Any) -> Path:
    """Write a page and return its path; every text on it is escaped.

    Args:
        template: file beside this one, which may read the page's parts from ``base.html`` and ``parts.html``.
        values: that it shows; `not_computed` gives the reason why a metric was not computed, by its name.
    """
    environment = page_environment()
    environment.loader = PackageLoader(__package__, ".")
    environment.filters.update(
        figure=figure,
        percent_of=percent_of,
        sort_key=sort_key,
        duration=duration,
        p_text=p_text,
        thousands="{:,}".format,
    )
    environment.globals.update(infinity=math.inf, nan=math.nan, paragraph=paragraph, unknown=UNKNOWN)
    reasons = names_by_value(values["not_computed"]).items()
    values["not_computed"] = {", ".join(names): reason for reason, names in reasons}
    # A lone surrogate, which a JSON file may hold, is no text that UTF-8 can encode.
    write_text(output, environment.get_template(template).render(values), errors="replace")
    return output


def reader(language: LanguageCheck, *, phantoms: bool) -> Reader | None:
    """Return what reads the findings of reports; None for reports in another language."""
    return read_phantom if phantoms else read_classes if language.english else None


def headline_metrics(metrics: Mapping[str, Metric], *, phantoms: bool) -> list[Metric]:
    """Return the metrics that stand at the top; the first of all if none of `HEADLINES` was computed."""
    known = [metrics[name] for name in HEADLINES if name in metrics]
    fit = [metric for metric in known if phantoms or not metric.name.startswith("phantom")]
    return fit or list(metrics.values())[:1]


def compared_values(scores: Scores, name: str, others: Mapping[str, float]) -> dict[str, float]:
    """Return what a score has to be held against: its controls, and further values by name."""
    controls = {control: values.get(name, math.nan) for control, values in scores.controls.items()}
    return {key: value for key, value in {**controls, **others}.items() if not math.isnan(value)}


def verdict(metric: Metric, score: Interval, compared: Mapping[str, float]) -> str:
    """Return in words what a reader must not overlook about a score; "" if there is nothing."""
    if math.isnan(score.value):
        return f"{metric.title} is not defined for these reports: it found nothing to compare."
    sign, end = (1, score.low) if metric.higher_is_better else (-1, score.high)
    names: dict[str, list[str]] = {sentence: [] for sentence in (*REACHED.values(), NO_BETTER, NEAR)}
    for name, value in compared.items():
        # Errors of the generated reports alone are the same for shuffled ones.
        if metric.descriptive or (name == "shuffled" and metric.heading == "Errors"):
            continue
        quoted = f"\u201c{name.replace('_', ' ')}\u201d"
        if sign * value >= sign * score.value:
            names[REACHED.get(name, NO_BETTER)].append(quoted)
        elif sign * value >= sign * end:
            names[NEAR].append(quoted)
    return " ".join(sentence.format(" and ".join(said)) for sentence, said in names.items() if said)


def _phantom_findings(scores: Scores, predictions: Sequence[Prediction]) -> dict[str, FindingScore]:
    """Return the score of each of the phantoms' findings, with its side."""
    truths = [extract_findings(row.reference) for row in predictions]
    found = [extract_findings(row.generated) for row in predictions]
    names = sorted(set().union(*truths, *found))
    counts = [count_set_matches([t & {name} for t in truths], [f & {name} for f in found]) for name in names]
    units = units_of(predictions).ids
    stacked = np.stack(counts, axis=1) if counts else np.zeros((len(units), 0, 3))
    return score_findings(names, stacked, units, seed=scores.seed, rounds=scores.rounds)


def conditions(protocol: Mapping[str, Any]) -> dict[str, str]:
    """Return the conditions of a protocol by their names for people; settings one per line.

    The metrics and what was not computed have their own places on the page.
    """
    values = {**protocol.get("generation", {}), **protocol}
    words = {
        key.replace("_", " ").replace("sha256", "SHA-256"): _words(value)
        for key, value in values.items()
        if key not in ("generation", "metrics", "not_computed")
    }
    return {name[0].upper() + name[1:]: value for name, value in words.items()}


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_words(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def figure(value: float, highest: float = 1.0, signed: bool = False) -> str:
    """Write a score, or a `signed` difference of two, on a scale that ends at `highest`."""
    if not math.isfinite(value):
        return NO_VALUE
    digits = 3 if highest <= 10 else 1 if math.isfinite(highest) or abs(value) >= 10 else 2
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "\N{MINUS SIGN}")


def percent_of(value: float, highest: float) -> str:
    """Write where a value lies on a bar, in per cent of its length."""
    share = value / highest if math.isfinite(value) and math.isfinite(highest) else 0.0
    return f"{100 * min(max(share, 0.0), 1.0):.2f}"


def sort_key(value: float) -> str:
    """Write a number for the sorting of a table; "" if it is not known."""
    return f"{value:.9g}" if math.isfinite(value) else ""


def duration(seconds: float) -> str:
    """Write a wall time: ``3 min 20 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
