"""Compare two runs on the same images: the difference of their scores, how sure it is, and where it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xraygpt.common.errors import DataError
from xraygpt.evaluation.language import LanguageCheck, check_language
from xraygpt.evaluation.metrics.metric import Array, Metric, MetricTable, Score, make_tables
from xraygpt.evaluation.predictions import Prediction, counted
from xraygpt.evaluation.statistics import (
    ROUNDS,
    Interval,
    interval,
    p_value,
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


@dataclass(frozen=True, slots=True)
class ReportDifference:
    """One image whose reports score differently."""

    image_id: str
    a: float
    b: float


@dataclass(frozen=True)
class Comparison:
    """Two runs by all metrics; ``comparison.json`` has its fields (`plain`)."""

    reports: int
    studies: int
    same_texts: int
    """Images of which both runs say the same."""
    language: LanguageCheck
    """Which reports are not in English, in the run with more of them."""
    seed: int
    rounds: int
    differences: Mapping[str, Difference]
    """Name of a metric -> difference."""
    most_different: Mapping[str, Sequence[ReportDifference]]
    """Name of a metric -> reports, the largest difference first."""
    not_computed: Mapping[str, str]
    metrics: Mapping[str, Metric]


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
        DataError: the runs are not of the same images, studies and references (`check_same_task`).
    """
    check_same_task(a, b)
    rows_a, rows_b = (sorted(rows, key=lambda row: row.image_id) for rows in (a, b))
    references, studies = [row.reference for row in rows_a], [row.study_id for row in rows_a]
    runs = [[row.generated for row in rows] for rows in (rows_a, rows_b)]
    language = max((check_language(references, texts) for texts in runs), key=lambda check: check.pairs)
    readable, not_english = language.readable(metrics)
    table_a, table_b = make_tables(readable, references, runs)
    columns = table_a.values.shape[1]
    sums = sums_by_study(np.hstack([table_a.values, table_b.values]), studies)
    drawn = resampled_sums(sums, seed=seed, rounds=rounds)
    swapped = swapped_sums(sums, seed=seed, rounds=rounds)

    def difference(score: Score) -> Difference:
        def of_both(sums: Array) -> Array:
            return score(sums[..., columns:]) - score(sums[..., :columns])

        return Difference(
            a=interval(lambda sums: score(sums[..., :columns]), sums, drawn),
            b=interval(lambda sums: score(sums[..., columns:]), sums, drawn),
            difference=interval(of_both, sums, drawn),
            p=p_value(of_both, sums, swapped),
        )

    return Comparison(
        reports=len(rows_a),
        studies=len(set(studies)),
        same_texts=sum(x.split() == y.split() for x, y in zip(*runs, strict=True)),
        language=language,
        seed=seed,
        rounds=rounds,
        differences={metric.name: difference(table_b.score_of(metric)) for metric in table_b.metrics},
        most_different={
            metric.name: _most_different(metric, table_a, table_b, rows_a) for metric in table_b.metrics
        },
        not_computed={**table_b.not_computed, **not_english},
        metrics={metric.name: metric for metric in table_b.metrics},
    )


def check_same_task(a: Sequence[Prediction], b: Sequence[Prediction]) -> None:
    """Raise a DataError where images, studies or references of two runs differ."""
    of_a, of_b = ({row.image_id: row for row in rows} for rows in (a, b))
    both = of_a.keys() & of_b.keys()
    problems = {
        "of the first {are} not in the second": of_a.keys() - of_b.keys(),
        "of the second {are} not in the first": of_b.keys() - of_a.keys(),
        "{have} another study": {i for i in both if of_a[i].study_id != of_b[i].study_id},
        "{have} another reference": {
            i for i in both if of_a[i].reference.split() != of_b[i].reference.split()
        },
    }
    found = [_problem(what, images) for what, images in problems.items() if images]
    if found:
        raise DataError(
            "the two files cannot be compared, they need the same images with the same references:"
            + "".join(f"\n  {problem}" for problem in found)
        )


def _problem(what: str, images: set[str]) -> str:
    one = len(images) == 1
    words = what.format(are="is" if one else "are", have="has" if one else "have")
    more = ", ..." if len(images) > NAMED else ""
    return f"{counted(len(images), 'image')} {words}: {', '.join(sorted(images)[:NAMED])}{more}"


def _most_different(
    metric: Metric, table_a: MetricTable, table_b: MetricTable, rows: Sequence[Prediction]
) -> list[ReportDifference]:
    """Return the reports by the size of their difference, ties by image; those alike are not among them."""
    triples = zip(rows, table_a.each(metric).tolist(), table_b.each(metric).tolist(), strict=True)
    differing = [ReportDifference(row.image_id, a, b) for row, a, b in triples if abs(a - b) > 0]
    differing.sort(key=lambda row: (-round(abs(row.a - row.b), 9), row.image_id))
    return differing[:MOST_DIFFERENT]
