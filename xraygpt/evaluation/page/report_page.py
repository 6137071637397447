"""``report.html``: one page about generated reports, a single file that asks nothing of a network.

Its layout is ``report_page.html`` beside this file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader

from xraygpt.common.html_page import page_environment
from xraygpt.common.run_record import write_text
from xraygpt.evaluation.page.curves import Chart, Curves, RunSummary, draw_chart
from xraygpt.evaluation.page.page_examples import Card, Pictures, choose_examples, example_cards
from xraygpt.evaluation.page.page_marks import highlight, highlight_phantom, no_marks
from xraygpt.evaluation.page.page_scores import (
    COLUMNS,
    CONTROLS,
    FindingTable,
    GroupTable,
    ScoreRow,
    SideRow,
    all_rows,
    comparison_rows,
    control_name,
    finding_tables,
    group_tables,
    grouped_rows,
    headline_names,
    side_rows,
    verdict,
)
from xraygpt.evaluation.predictions import Prediction
from xraygpt.evaluation.protocol import ProtocolCard
from xraygpt.evaluation.scoring import Scores, by_reason

UNKNOWN = "–"


def figure(value: float, highest: float = 1.0) -> str:
    """Write a score on a scale that ends at `highest`."""
    if not math.isfinite(value):
        return UNKNOWN
    if highest <= 10:
        return f"{value:.3f}"
    return f"{value:.1f}" if math.isfinite(highest) or abs(value) >= 10 else f"{value:.2f}"


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


def thousands(count: int) -> str:
    """Write a count: ``3,000``."""
    return f"{count:,}"


FILTERS = {
    "figure": figure,
    "percent_of": percent_of,
    "sort_key": sort_key,
    "duration": duration,
    "thousands": thousands,
}


def plain_protocol(protocol: ProtocolCard) -> dict[str, str]:
    """Return the conditions of a protocol by their names for people; settings one per line.

    The metrics and what was not computed have their own places on the page.
    """
    content = protocol.to_dict()
    generation = content.pop("generation")
    own = {key: value for key, value in content.items() if key not in ("metrics", "not_computed")}
    return {_name(key): _words(value) for key, value in (generation | own).items()}


def _name(key: str) -> str:
    words = key.replace("_", " ").replace("sha256", "SHA-256")
    return words[0].upper() + words[1:]


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_words(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return thousands(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)


TEMPLATE = "report_page.html"
EXAMPLES = 24
OF_ONE_REPORT = ("phantom_f1", "rule_f1_micro_14", "laterality_f1", "rouge_l")
"""Metrics that say something of a single report; each example tells them."""


@dataclass(frozen=True)
class PageContent:
    """All that the page shows."""

    scores: Scores
    synthetic: bool
    headlines: list[ScoreRow]
    """The page's first figure and those below it; empty where no metric could be computed."""
    comparisons: list[ScoreRow]
    verdict: str
    groups: Mapping[str, list[ScoreRow]]
    findings: list[FindingTable]
    sides: list[SideRow]
    subgroups: list[GroupTable]
    charts: list[tuple[RunSummary, Chart]]
    """Each of the runs that led to the reports."""
    overlay: Chart | None
    """Runs laid over each other."""
    runs: Sequence[RunSummary]
    examples: list[Card]
    protocol: ProtocolCard
    conditions: Mapping[str, str]
    """The protocol, for people."""
    settings: str
    marked: bool
    """The examples have their findings marked; those of reports in another language cannot be read."""

    @property
    def not_computed(self) -> Mapping[str, list[str]]:
        """Reason -> names of the metrics."""
        return by_reason(self.scores.not_computed)

    @property
    def sections(self) -> dict[str, str]:
        """Id of each section that the page has -> heading."""
        present = {
            "summary": ("Summary", True),
            "scores": ("All scores", bool(self.groups)),
            "findings": ("Findings", bool(self.findings)),
            "sides": ("Sides", bool(self.sides)),
            "subgroups": ("Subgroups", bool(self.subgroups)),
            "training": (
                "Training" if self.charts or self.overlay else "Wall time",
                bool(self.runs or self.overlay),
            ),
            "examples": ("Examples", bool(self.examples)),
            "protocol": ("Protocol", True),
            "missing": ("Not computed", bool(self.scores.not_computed)),
            "settings": ("Settings", bool(self.settings)),
        }
        return {name: title for name, (title, there) in present.items() if there}


def write_report_page(
    scores: Scores,
    predictions: Sequence[Prediction],
    protocol: ProtocolCard,
    *,
    output: Path,
    pictures: Pictures | None = None,
    curves: Sequence[RunSummary] = (),
    compared_runs: Mapping[str, Curves] | None = None,
    synthetic: bool = False,
    examples: int = EXAMPLES,
    comparisons: Mapping[str, float] | None = None,
    settings: str = "",
) -> Path:
    """Write the page and return its path.

    Args:
        scores: of `predictions`.
        output: the file.
        pictures: gives the image of an image id; without it the examples have none.
        curves: the runs that led to the reports.
        compared_runs: trainings, by name, whose losses are laid over each other in one chart.
        synthetic: all images are phantoms, drawn by this project.
        examples: how many images are shown with both reports.
        comparisons: what else the first score is to be held against: "untrained" -> its value.
        settings: of the evaluation, as text.
    """
    phantoms = synthetic and "phantom_f1" in scores.metrics
    names = headline_names(scores, phantoms=phantoms)
    rows = all_rows(scores)
    compared = comparison_rows(rows[names[0]], comparisons or {}) if names else []
    chosen = choose_examples(predictions, scores.worst[names[0]] if names else [], examples)
    of_one = [scores.metrics[name] for name in OF_ONE_REPORT if name in scores.metrics]
    marked = phantoms or scores.language.english
    mark = highlight_phantom if phantoms else highlight if marked else no_marks
    content = PageContent(
        scores=scores,
        synthetic=synthetic,
        headlines=[rows[name] for name in names],
        comparisons=compared,
        verdict=verdict(rows[names[0]], compared) if names else "No score could be computed.",
        groups=grouped_rows(rows),
        findings=finding_tables(scores, predictions, phantoms=phantoms),
        sides=side_rows(scores),
        subgroups=group_tables(scores, names) if names else [],
        charts=[
            (run, chart) for run in curves if run.curves and (chart := draw_chart({run.name: run.curves}))
        ],
        overlay=draw_chart(compared_runs or {}),
        runs=curves,
        examples=example_cards(chosen, of_one, pictures, mark),
        protocol=protocol,
        conditions=plain_protocol(protocol),
        settings=settings,
        marked=marked,
    )
    # A lone surrogate, which a JSON file may hold, is no text that UTF-8 can encode.
    write_text(output, render_page(content), errors="replace")
    return output


def render_page(content: PageContent) -> str:
    """Return the page as HTML; every text is escaped."""
    environment: Environment = page_environment()
    environment.loader = FunctionLoader(_template)
    environment.filters.update(FILTERS, control_name=control_name)
    environment.globals.update(infinity=math.inf, control_words=CONTROLS, finding_columns=COLUMNS)
    return environment.get_template(TEMPLATE).render(page=content)


def _template(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
