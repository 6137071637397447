"""The tables of findings on the page about an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xraygpt.evaluation.findings import extract_findings
from xraygpt.evaluation.metrics.counts import count_set_matches, micro_f1
from xraygpt.evaluation.page.page_scores import ScoreRow
from xraygpt.evaluation.predictions import Prediction
from xraygpt.evaluation.scoring import Scores
from xraygpt.evaluation.statistics import Interval, interval, resampled_sums, sums_by_study

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
