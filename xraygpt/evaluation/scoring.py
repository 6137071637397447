"""Score the reports of a run by many metrics, with intervals, controls, subgroups and the worst reports."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xraygpt.evaluation.controls import blind_bounds, blind_report, shuffled
from xraygpt.evaluation.labeller import CLASSES
from xraygpt.evaluation.language import LanguageCheck, check_language, readable_metrics
from xraygpt.evaluation.metric_table import MetricTable, make_tables
from xraygpt.evaluation.metrics.clinical import class_counts, side_confusion
from xraygpt.evaluation.metrics.metric import Array, Metric, mean_of_values, micro_f1
from xraygpt.evaluation.predictions import Prediction, column_values
from xraygpt.evaluation.statistics import ROUNDS, Interval, interval, plain, resampled_sums, sums_by_study
from xraygpt.evaluation.subgroups import group_rows


@dataclass(frozen=True, slots=True)
class FindingScore:
    """How well one class of the labeller is reported."""

    f1: Interval
    """NaN where no report has the finding."""
    precision: Interval
    recall: Interval
    cases: int
    """References with the finding, and how many of these were `missed`."""
    missed: int
    reported: int
    """Generated reports with the finding, and how many of these were `invented`."""
    invented: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "f1": self.f1.to_dict(),
            "precision": self.precision.to_dict(),
            "recall": self.recall.to_dict(),
            "cases": self.cases,
            "missed": self.missed,
            "reported": self.reported,
            "invented": self.invented,
        }


def score_findings(
    references: Sequence[str], hypotheses: Sequence[str], studies: Sequence[str], *, seed: int, rounds: int
) -> dict[str, FindingScore]:
    """Return the score of each class that a reference or a generated report has, in CheXpert's order.

    Args:
        studies: of each report; they are what the bootstrap draws.
    """
    counts = class_counts(references, hypotheses)
    sums = sums_by_study(counts.reshape(len(counts), -1), studies)
    resampled = resampled_sums(sums, seed=seed, rounds=rounds)
    return {
        name: _finding_score(sums[:, 3 * i : 3 * i + 3], resampled[:, 3 * i : 3 * i + 3])
        for i, name in enumerate(CLASSES)
        if counts[:, i].any()
    }


def _finding_score(sums: Array, resampled: Array) -> FindingScore:
    hits, false_alarms, misses = (int(count) for count in sums.sum(axis=0))
    return FindingScore(
        f1=interval(micro_f1, sums, resampled),
        precision=interval(_precision, sums, resampled),
        recall=interval(_recall, sums, resampled),
        cases=hits + misses,
        missed=misses,
        reported=hits + false_alarms,
        invented=false_alarms,
    )


def _precision(counts: Array) -> Array:
    return mean_of_values(np.stack([counts[..., 0], counts[..., 0] + counts[..., 1]], axis=-1))


def _recall(counts: Array) -> Array:
    return mean_of_values(np.stack([counts[..., 0], counts[..., 0] + counts[..., 2]], axis=-1))


WORST = 20
"""How many of the worst reports are named for each metric."""


@dataclass(frozen=True, slots=True)
class SubgroupScore:
    """The scores of the reports that share a value of a column."""

    value: str
    """The value, or the band of numbers: ``female``, ``40 to 59``; ``not known`` where there is none."""
    reports: int
    studies: int
    scores: Mapping[str, Interval]


@dataclass(frozen=True)
class Scores:
    """All that is known about how well a run reports."""

    reports: int
    studies: int
    empty: int
    """Generated reports without any text."""
    language: LanguageCheck
    """Which of them are not in English."""
    seed: int
    rounds: int
    metrics: Mapping[str, Metric]
    """Those computed, by name."""
    scores: Mapping[str, Interval]
    """Name of a metric -> score."""
    not_computed: Mapping[str, str]
    """Name of a metric -> why."""
    findings: Mapping[str, FindingScore]
    """Class of the labeller -> how well it is reported; none where the reports are not in English."""
    sides: Mapping[str, Mapping[str, int]]
    """Side in the reference -> side in the generated report -> number of findings, see `side_confusion`."""
    subgroups: Mapping[str, Sequence[SubgroupScore]]
    """Column -> groups."""
    controls: Mapping[str, Mapping[str, float]]
    """``shuffled``, ``blind`` and ``blind_bound`` -> name of a metric -> score: the same reports for other
    images (NaN where they cannot be exchanged between studies), `blind_report` for every image, and what no
    constant report passes (see `xraygpt.evaluation.controls`; it is known of some metrics only)."""
    blind_report: str
    """What the blind control says of every image."""
    worst: Mapping[str, Sequence[str]]
    """Name of a metric -> image ids, the worst first."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "reports": self.reports,
            "studies": self.studies,
            "empty": self.empty,
            "language": self.language.to_dict(),
            "seed": self.seed,
            "rounds": self.rounds,
            "scores": _plain_scores(self.scores),
            "controls": {
                name: {key: plain(value) for key, value in values.items()}
                for name, values in self.controls.items()
            },
            "blind_report": self.blind_report,
            "findings": {name: row.to_dict() for name, row in self.findings.items()},
            "sides": {side: dict(row) for side, row in self.sides.items()},
            "subgroups": {
                column: [
                    {"value": group.value, "reports": group.reports, "studies": group.studies}
                    | {"scores": _plain_scores(group.scores)}
                    for group in groups
                ]
                for column, groups in self.subgroups.items()
            },
            "worst": {name: list(ids) for name, ids in self.worst.items()},
            "not_computed": dict(self.not_computed),
            "metrics": {name: describe_metric(metric) for name, metric in self.metrics.items()},
        }


def by_reason(not_computed: Mapping[str, str]) -> dict[str, list[str]]:
    """Return each reason why metrics were not computed -> their names."""
    names: dict[str, list[str]] = {}
    for name, reason in not_computed.items():
        names.setdefault(reason, []).append(name)
    return names


def describe_metric(metric: Metric) -> dict[str, Any]:
    """Return what a reader of ``scores.json`` has to know about a metric; no `highest` is None."""
    return {
        "title": metric.title,
        "equals": metric.equals,
        "higher_is_better": metric.higher_is_better,
        "highest": plain(metric.highest),
    }


def score_predictions(
    predictions: Sequence[Prediction],
    metrics: Sequence[Metric],
    *,
    seed: int,
    rounds: int = ROUNDS,
    subgroups: Sequence[str] = (),
) -> Scores:
    """Score a run.

    Args:
        predictions: in any order; the scores do not depend on it.
        metrics: those that cannot be computed here are noted with the reason.
        seed: of the bootstrap and the shuffling.
        rounds: of the bootstrap.
        subgroups: columns of the predictions whose values are scored apart.

    Raises:
        ValueError: there are no predictions.
        DataError: no such column, or one whose values make no groups.
    """
    if not predictions:
        raise ValueError("there are no predictions to score")
    rows = sorted(predictions, key=lambda row: row.image_id)
    groups = {column: group_rows(column, column_values(rows, column)) for column in subgroups}
    references, hypotheses = [row.reference for row in rows], [row.generated for row in rows]
    studies = [row.study_id for row in rows]
    language = check_language(references, hypotheses)
    readable, not_english = readable_metrics(metrics, language)
    constant = blind_report(references)
    exchanged = shuffled(hypotheses, studies, seed)
    runs = [hypotheses, [constant] * len(rows), *([exchanged] if exchanged is not None else [])]
    table, of_blind, *of_exchanged = make_tables(readable, references, runs)
    bounds = blind_bounds(references)
    return Scores(
        reports=len(rows),
        studies=len(set(studies)),
        empty=sum(not text.strip() for text in hypotheses),
        language=language,
        seed=seed,
        rounds=rounds,
        metrics={metric.name: metric for metric in table.metrics},
        scores=_intervals(table, table.values, studies, seed, rounds),
        not_computed={**table.not_computed, **not_english},
        findings=score_findings(references, hypotheses, studies, seed=seed, rounds=rounds)
        if language.english
        else {},
        sides=side_confusion(references, hypotheses) if language.english else {},
        subgroups={
            column: [
                _subgroup(table, studies, value, places, seed, rounds) for value, places in parts.items()
            ]
            for column, parts in groups.items()
        },
        controls={
            "shuffled": (
                of_exchanged[0].scores()
                if of_exchanged
                else {metric.name: math.nan for metric in table.metrics}
            ),
            "blind": of_blind.scores(),
            "blind_bound": {metric.name: bounds[metric.name] for metric in readable if metric.name in bounds},
        },
        blind_report=constant,
        worst={metric.name: worst_reports(table, metric, rows) for metric in table.metrics},
    )


def worst_reports(
    table: MetricTable, metric: Metric, rows: Sequence[Prediction], count: int = WORST
) -> list[str]:
    """Return the images whose reports score worst by themselves, ties by `name_hash`.

    Reports for which the metric is not defined are passed over.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    values = (round(sign * float(value), 9) for value in table.each(metric))
    ranked = sorted(
        (value, name_hash(row.image_id), row.image_id)
        for value, row in zip(values, rows, strict=True)
        if not math.isnan(value)
    )
    return [image_id for *_, image_id in ranked[:count]]


def name_hash(name: str) -> bytes:
    """Return a key that puts images in a fixed order, which says nothing about what is in them."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def _intervals(
    table: MetricTable, values: Array, studies: Sequence[str], seed: int, rounds: int
) -> dict[str, Interval]:
    sums = sums_by_study(values, studies)
    resampled = resampled_sums(sums, seed=seed, rounds=rounds)
    return {metric.name: interval(table.score_of(metric), sums, resampled) for metric in table.metrics}


def _subgroup(
    table: MetricTable, studies: Sequence[str], value: str, places: Sequence[int], seed: int, rounds: int
) -> SubgroupScore:
    own = [studies[place] for place in places]
    scores = _intervals(table, table.values[list(places)], own, seed, rounds)
    return SubgroupScore(value, len(places), len(set(own)), scores)


def _plain_scores(scores: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: score.to_dict() for name, score in scores.items()}
