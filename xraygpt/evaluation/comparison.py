"""Compare two runs on the same images: the difference of their scores, how sure it is, and where it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xraygpt.common.errors import DataError
from xraygpt.evaluation.language import LanguageCheck, check_language, readable_metrics
from xraygpt.evaluation.metric_table import MetricTable, make_tables
from xraygpt.evaluation.metrics.metric import Metric
from xraygpt.evaluation.predictions import Prediction
from xraygpt.evaluation.scoring import describe_metric
from xraygpt.evaluation.statistics import (
    ROUNDS,
    Interval,
    difference_interval,
    interval,
    p_value,
    plain,
    resampled_sums,
    sums_by_study,
    swapped_sums,
)

MOST_DIFFERENT = 10
"""How many reports are named for each metric."""
NAMED = 5
"""How many images a message names."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Two runs by one metric."""

    a: Interval
    b: Interval
    difference: Interval
    """b - a, interval of the paired bootstrap."""
    p: float
    """Of approximate randomisation, two-sided; of this one metric, not corrected for the others."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "difference": self.difference.to_dict(),
            "p": plain(self.p),
        }


@dataclass(frozen=True, slots=True)
class ReportDifference:
    """One image whose reports score differently."""

    image_id: str
    a: float
    b: float


@dataclass(frozen=True)
class Comparison:
    """Two runs by all metrics."""

    reports: int
    studies: int
    same_texts: int
    """Images of which both runs say the same."""
    language: LanguageCheck
    """Which reports are not in English, in the run with more of them."""
    seed: int
    rounds: int
    metrics: Mapping[str, Metric]
    differences: Mapping[str, Difference]
    """Name of a metric -> difference."""
    most_different: Mapping[str, Sequence[ReportDifference]]
    """Name of a metric -> reports, the largest difference first."""
    not_computed: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "reports": self.reports,
            "studies": self.studies,
            "same_texts": self.same_texts,
            "language": self.language.to_dict(),
            "seed": self.seed,
            "rounds": self.rounds,
            "differences": {name: row.to_dict() for name, row in self.differences.items()},
            "most_different": {
                name: [{"image_id": row.image_id, "a": plain(row.a), "b": plain(row.b)} for row in rows]
                for name, rows in self.most_different.items()
            },
            "not_computed": dict(self.not_computed),
            "metrics": {name: describe_metric(metric) for name, metric in self.metrics.items()},
        }


def compare_predictions(
    a: Sequence[Prediction],
    b: Sequence[Prediction],
    metrics: Sequence[Metric],
    *,
    seed: int,
    rounds: int = ROUNDS,
) -> Comparison:
    """Compare two runs, report by report of the same image.

    Args:
        metrics: those that cannot be computed here are noted with the reason.
        seed: of the bootstrap and of the randomisation, each of which has as many `rounds`.

    Raises:
        DataError: the runs are not of the same images, studies and references; the first differences are
            named.
    """
    check_same_task(a, b)
    rows_a, rows_b = (sorted(rows, key=lambda row: row.image_id) for rows in (a, b))
    references, studies = [row.reference for row in rows_a], [row.study_id for row in rows_a]
    runs = [[row.generated for row in rows] for rows in (rows_a, rows_b)]
    language = max((check_language(references, texts) for texts in runs), key=lambda check: check.pairs)
    readable, not_english = readable_metrics(metrics, language)
    table_a, table_b = make_tables(readable, references, runs)
    return Comparison(
        reports=len(rows_a),
        studies=len(set(studies)),
        same_texts=sum(
            x.generated.split() == y.generated.split() for x, y in zip(rows_a, rows_b, strict=True)
        ),
        language=language,
        seed=seed,
        rounds=rounds,
        metrics={metric.name: metric for metric in table_b.metrics},
        differences=_differences(table_a, table_b, studies, seed, rounds),
        most_different={
            metric.name: _most_different(metric, table_a, table_b, rows_a) for metric in table_b.metrics
        },
        not_computed={**table_b.not_computed, **not_english},
    )


def check_same_task(a: Sequence[Prediction], b: Sequence[Prediction]) -> None:
    """See `compare_predictions`.

    Raises:
        DataError: images, studies or references differ.
    """
    of_a, of_b = ({row.image_id: row for row in rows} for rows in (a, b))
    problems = [
        _problem("of the first {are} not in the second", of_a.keys() - of_b.keys()),
        _problem("of the second {are} not in the first", of_b.keys() - of_a.keys()),
    ]
    both = of_a.keys() & of_b.keys()
    problems += [
        _problem("{have} another study", {i for i in both if of_a[i].study_id != of_b[i].study_id}),
        _problem(
            "{have} another reference",
            {i for i in both if of_a[i].reference.split() != of_b[i].reference.split()},
        ),
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise DataError(
            "the two files cannot be compared, they need the same images with the same references:"
            + "".join(f"\n  {problem}" for problem in found)
        )


def _problem(what: str, images: set[str]) -> str:
    if not images:
        return ""
    named = sorted(images)[:NAMED]
    more = ", ..." if len(images) > len(named) else ""
    one = len(images) == 1
    words = what.format(are="is" if one else "are", have="has" if one else "have")
    return f"{len(images):,} image{'' if one else 's'} {words}: {', '.join(named)}{more}"


def _differences(
    table_a: MetricTable, table_b: MetricTable, studies: Sequence[str], seed: int, rounds: int
) -> dict[str, Difference]:
    a, b = sums_by_study(table_a.values, studies), sums_by_study(table_b.values, studies)
    resampled_a = resampled_sums(a, seed=seed, rounds=rounds)
    resampled_b = resampled_sums(b, seed=seed, rounds=rounds)
    swapped = swapped_sums(a, b, seed=seed, rounds=rounds)
    result = {}
    for metric in table_b.metrics:
        score = table_b.score_of(metric)
        result[metric.name] = Difference(
            a=interval(score, a, resampled_a),
            b=interval(score, b, resampled_b),
            difference=difference_interval(score, a, b, resampled_a, resampled_b),
            p=p_value(score, a, b, swapped),
        )
    return result


def _most_different(
    metric: Metric, table_a: MetricTable, table_b: MetricTable, rows: Sequence[Prediction]
) -> list[ReportDifference]:
    """Return the reports by the size of their difference, ties by image; those alike are not among them."""
    triples = zip(rows, table_a.each(metric).tolist(), table_b.each(metric).tolist(), strict=True)
    differing = [ReportDifference(row.image_id, a, b) for row, a, b in triples if abs(a - b) > 0]
    differing.sort(key=lambda row: (-round(abs(row.a - row.b), 9), row.image_id))
    return differing[:MOST_DIFFERENT]
