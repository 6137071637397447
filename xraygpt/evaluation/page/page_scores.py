"""The scores of an evaluation as its page shows them: rows of tables, each with a bar and its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xraygpt.evaluation.findings import extract_findings
from xraygpt.evaluation.metrics.metric import Metric, count_set_matches, micro_f1
from xraygpt.evaluation.predictions import Prediction
from xraygpt.evaluation.scoring import Scores
from xraygpt.evaluation.statistics import Interval, interval, resampled_sums, sums_by_study

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
WORDING = "Wording"
GROUPS = {
    "Findings": ("phantom_", "rule_f1", "laterality"),
    WORDING: (),
    "Errors": ("prior_", "contradiction", "repeated_"),
    "Length and variety": ("words_", "length", "distinct", "normal_"),
}
"""Heading -> how the names of its metrics begin; all others are about the wording."""
ABOUT_GENERATED_ALONE = GROUPS["Errors"]
"""These scores do not look at the references, so shuffling them changes nothing."""
MOST_IN_SUBGROUPS = 4
"""Scores beside each other in the table of subgroups; more do not fit on a page."""
CONTROLS = {
    "shuffled": "the same reports, each held against a reference of another study",
    "blind": "one and the same report for every image",
    "blind_bound": "the best constant set of findings; no constant report passes it",
}


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A score with its interval."""

    name: str
    title: str
    value: float
    low: float
    """Of the 95 % interval; NaN, like `high`, where there is none."""
    high: float
    highest: float = 1.0
    """Upper end of the scale, infinity where there is none."""
    equals: str = ""
    """What the numbers are, for people."""
    higher_is_better: bool = True
    controls: Mapping[str, float] = field(default_factory=dict)

    @property
    def has_interval(self) -> bool:
        """There is an interval to show."""
        return self.low <= self.high


@dataclass(frozen=True, slots=True)
class Cell:
    """How often a finding of one side was reported on another."""

    count: int
    share: float
    """Of the findings of the reference's side, 0 to 1."""
    same: bool
    """Both say the same side."""


@dataclass(frozen=True, slots=True)
class SideRow:
    """What became of the findings of one side of the references."""

    side: str
    total: int
    cells: list[Cell]
    """In the order of the rows."""


@dataclass(frozen=True, slots=True)
class GroupRow:
    """The scores of one subgroup."""

    title: str
    reports: int
    first: ScoreRow
    others: list[ScoreRow]


@dataclass(frozen=True, slots=True)
class GroupTable:
    """The subgroups by one column."""

    title: str
    rows: list[GroupRow]


def score_row(metric: Metric, score: Interval, controls: Mapping[str, float] | None = None) -> ScoreRow:
    """Return the row of a metric."""
    return ScoreRow(
        name=metric.name,
        title=metric.title,
        value=score.value,
        low=score.low,
        high=score.high,
        highest=metric.highest,
        equals=metric.equals,
        higher_is_better=metric.higher_is_better,
        controls=controls or {},
    )


def all_rows(scores: Scores) -> dict[str, ScoreRow]:
    """Return the row of every metric by name, in their order."""
    return {
        name: score_row(
            metric,
            scores.scores[name],
            {control: values.get(name, math.nan) for control, values in scores.controls.items()},
        )
        for name, metric in scores.metrics.items()
    }


def headline_names(scores: Scores, *, phantoms: bool) -> list[str]:
    """Return the names of the metrics that stand at the top; the first of all if none of them was computed.

    Args:
        phantoms: those that are made for phantoms come in too.
    """
    known = [name for name in HEADLINES if name in scores.metrics]
    return [name for name in known if phantoms or not name.startswith("phantom")] or list(scores.metrics)[:1]


def grouped_rows(rows: Mapping[str, ScoreRow]) -> dict[str, list[ScoreRow]]:
    """Return the rows under the headings of their tables, without headings that have none."""
    groups: dict[str, list[ScoreRow]] = {heading: [] for heading in GROUPS}
    for name, row in rows.items():
        heading = next((head for head, begins in GROUPS.items() if name.startswith(begins)), WORDING)
        groups[heading].append(row)
    return {heading: members for heading, members in groups.items() if members}


def comparison_rows(first: ScoreRow, others: Mapping[str, float]) -> list[ScoreRow]:
    """Return what the first score has to be held against: its controls, and further values by name."""
    values = {**first.controls, **others}
    return [
        ScoreRow(name, control_name(name), value, math.nan, math.nan, first.highest, CONTROLS.get(name, ""))
        for name, value in values.items()
        if not math.isnan(value)
    ]


def control_name(name: str) -> str:
    """Return how the page calls a control."""
    return name.replace("_", " ")


def verdict(first: ScoreRow, compared: Sequence[ScoreRow]) -> str:
    """Return in words what a reader must not overlook about the first score; "" if there is nothing."""
    if math.isnan(first.value):
        return f"{first.title} is not defined for these reports: it found nothing to compare."
    if "descriptive" in first.equals:
        return ""
    if first.name.startswith(ABOUT_GENERATED_ALONE):
        compared = [row for row in compared if row.name != "shuffled"]
    sign, end = (1, first.low) if first.higher_is_better else (-1, first.high)
    reached = {row.name: row.title for row in compared if sign * row.value >= sign * first.value}
    near = [row.title for row in compared if sign * first.value > sign * row.value >= sign * end]
    sentences = _not_passed(reached)
    if near:
        sentences.append(f"The interval reaches to {_listed(near)}: the score may be no better.")
    return " ".join(sentences)


def _not_passed(reached: Mapping[str, str]) -> list[str]:
    """Return a sentence for each kind of comparison (name -> title) that the score does not pass."""
    constant = [title for name, title in reached.items() if name in ("blind", "blind_bound")]
    others = [title for name, title in reached.items() if name not in CONTROLS]
    sentences = []
    if "shuffled" in reached:
        sentences.append(
            f"No better than {_listed([reached['shuffled']])}: this score is no sign that the reports depend "
            "on the images."
        )
    if constant:
        sentences.append(
            f"No better than {_listed(constant)}: a constant report reaches as much in this score."
        )
    if others:
        sentences.append(f"No better than {_listed(others)}.")
    return sentences


def side_rows(scores: Scores) -> list[SideRow]:
    """Return the table of sides; nothing if no finding is in both reports."""
    rows = []
    for side, row in scores.sides.items():
        total = sum(row.values())
        cells = [Cell(count, count / total if total else 0.0, other == side) for other, count in row.items()]
        rows.append(SideRow(side, total, cells))
    return rows if any(row.total for row in rows) else []


def _listed(names: Sequence[str]) -> str:
    return " and ".join(f"\u201c{name}\u201d" for name in names)


def group_tables(scores: Scores, names: Sequence[str]) -> list[GroupTable]:
    """Return a table for each column of subgroups.

    Args:
        names: of metrics, the most important first; `MOST_IN_SUBGROUPS` of them are shown.
    """
    metrics = [scores.metrics[name] for name in names[:MOST_IN_SUBGROUPS]]
    tables = []
    for column, groups in scores.subgroups.items():
        rows = []
        for group in groups:
            first, *others = (score_row(metric, group.scores[metric.name]) for metric in metrics)
            rows.append(GroupRow(group.value, group.reports, first, others))
        tables.append(GroupTable(column, rows))
    return tables


COLUMNS = ("Cases", "Missed", "Reported", "Invented")
"""References with the finding, those of them in which it was missed; generated reports with it, those of them
in which it was invented."""


@dataclass(frozen=True, slots=True)
class FindingRow:
    """How well one finding is reported."""

    score: ScoreRow
    """F1."""
    counts: Mapping[str, int]
    """By `COLUMNS`."""


@dataclass(frozen=True, slots=True)
class FindingTable:
    """One way to read findings, and how well each is reported."""

    title: str
    words: str
    rows: list[FindingRow]


def finding_tables(
    scores: Scores, predictions: Sequence[Prediction], *, phantoms: bool
) -> list[FindingTable]:
    """Return the table of CheXpert's classes, before it that of the phantoms' findings with their sides.

    Tables without rows are left out; rows come with the most frequent finding first.
    """
    classes = [
        _row(name, row.f1, row.cases, row.missed, row.reported, row.invented)
        for name, row in scores.findings.items()
    ]
    tables = [
        FindingTable("CheXpert's classes", "As this project's rule labeller reads the reports.", classes)
    ]
    if phantoms:
        words = "With their side, as rules made for the phantoms' reports read them."
        tables.insert(0, FindingTable("Findings of the phantoms", words, _phantom_rows(scores, predictions)))
    for table in tables:
        table.rows.sort(key=lambda row: -row.counts["Cases"])
    return [table for table in tables if table.rows]


def _phantom_rows(scores: Scores, predictions: Sequence[Prediction]) -> list[FindingRow]:
    truths = [extract_findings(row.reference) for row in predictions]
    found = [extract_findings(row.generated) for row in predictions]
    studies = [row.study_id for row in predictions]
    rows = []
    for name in sorted(set().union(*truths, *found)):
        counts = count_set_matches([each & {name} for each in truths], [each & {name} for each in found])
        sums = sums_by_study(counts, studies)
        f1 = interval(micro_f1, sums, resampled_sums(sums, seed=scores.seed, rounds=scores.rounds))
        hits, invented, missed = (int(count) for count in sums.sum(axis=0))
        rows.append(_row(name, f1, hits + missed, missed, hits + invented, invented))
    return rows


def _row(name: str, f1: Interval, *counts: int) -> FindingRow:
    return FindingRow(
        ScoreRow(name, name, f1.value, f1.low, f1.high), dict(zip(COLUMNS, counts, strict=True))
    )
