"""Compare runs on the same images: how their scores differ, how sure that is, and where it lies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xraygpt.evaluation.labeller import CLASSES
from xraygpt.evaluation.language import LanguageCheck, check_language
from xraygpt.evaluation.metrics.clinical import class_counts
from xraygpt.evaluation.metrics.metric import Array, Metric, MetricTable, make_tables
from xraygpt.evaluation.predictions import Prediction, check_same_task, units_of, with_patients
from xraygpt.evaluation.scoring import FindingScore, same_texts, score_findings
from xraygpt.evaluation.statistics import (
    COMPARISON_ROUNDS,
    Interval,
    detectable_difference,
    holm,
    interval,
    p_value,
    resampled_sums,
    sums_by_unit,
    swapped_sums,
)

MOST_DIFFERENT = 10
"""How many reports are named for each metric."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A further run against the first by one metric."""

    difference: Interval
    """Further run - first, interval of the paired bootstrap."""
    p: float
    """Of approximate randomisation, two-sided; of this one test, not corrected for the others."""
    p_holm: float
    """Corrected by Holm for all tests of the comparison: each metric with each further run. Metrics that are
    `descriptive` are no tests; theirs is NaN."""
    detectable: float
    """The smallest true difference that this test would have found with 80 % power at 0.05, uncorrected
    (`detectable_difference`)."""


@dataclass(frozen=True, slots=True)
class ReportDifference:
    """One image whose reports score differently."""

    image_id: str
    values: tuple[float, ...]
    """Of each run."""


@dataclass(frozen=True)
class Comparison:
    """Two runs or more by all metrics; ``comparison.json`` has its fields (`plain`)."""

    runs: tuple[str, ...]
    """Names; the first is what the others are compared with."""
    reports: int
    studies: int
    unit: str
    """What bootstrap and randomisation take as a whole: ``patient`` or ``study``."""
    units: int
    """How many of them there are."""
    unit_note: str
    """Of `Units`."""
    same_texts: tuple[int, ...]
    """Images of which a further run says the same as the first, for each further run."""
    language: LanguageCheck
    """Which reports are not in English, in the run with most of them."""
    seed: int
    rounds: int
    scores: Mapping[str, tuple[Interval, ...]]
    """Name of a metric -> score of each run."""
    differences: Mapping[str, tuple[Difference, ...]]
    """Name of a metric -> difference of each further run."""
    findings: Mapping[str, tuple[FindingScore | None, ...]]
    """Class of the labeller -> how well each run reports it; None where neither it nor a reference has it."""
    most_different: Mapping[str, Sequence[ReportDifference]]
    """Name of a metric -> reports, those first whose lowest and highest value are furthest apart."""
    not_computed: Mapping[str, str]
    metrics: Mapping[str, Metric]

    @property
    def tests(self) -> int:
        """How many tests p is corrected for."""
        return sum(not math.isnan(row.p_holm) for rows in self.differences.values() for row in rows)


def compare_predictions(
    runs: Mapping[str, Sequence[Prediction]],
    metrics: Sequence[Metric],
    *,
    seed: int,
    rounds: int = COMPARISON_ROUNDS,
) -> Comparison:
    """Compare runs with the first of them, report by report of the same image.

    Args:
        runs: predictions by the name of their run.
        metrics: those that cannot be computed here are noted with the reason.
        seed: of the bootstrap and of the randomisation, each of which has as many `rounds`.

    Raises:
        DataError: the runs are not of the same images, studies, patients and references
            (`check_same_task`). The patients are those that any run names.
    """
    first, *others = sorted_runs = [sorted(rows, key=lambda row: row.image_id) for rows in runs.values()]
    for name, other in zip(list(runs)[1:], others, strict=True):
        check_same_task(first, other, (next(iter(runs)), name))
        first = with_patients(first, other)
    references, units = [row.reference for row in first], units_of(first)
    texts = [[row.generated for row in rows] for rows in sorted_runs]
    language = max((check_language(references, each) for each in texts), key=lambda check: check.pairs)
    readable, not_english = language.readable(metrics)
    tables = make_tables(readable, references, texts)
    computed = tables[0].metrics
    scores, differences = _compare_tables(tables, units.ids, seed=seed, rounds=rounds)
    findings = [
        score_findings(CLASSES, class_counts(references, each), units.ids, seed=seed, rounds=rounds)
        for each in (texts if language.english else ())
    ]
    return Comparison(
        runs=tuple(runs),
        reports=len(first),
        studies=len({row.study_id for row in first}),
        unit=units.name,
        units=units.count,
        unit_note=units.note,
        same_texts=tuple(same_texts(texts[0], each) for each in texts[1:]),
        language=language,
        seed=seed,
        rounds=rounds,
        scores=scores,
        differences=differences,
        findings={
            name: tuple(of_run.get(name) for of_run in findings)
            for name in CLASSES
            if any(name in of_run for of_run in findings)
        },
        most_different={metric.name: _most_different(metric, tables, first) for metric in computed},
        not_computed={**tables[0].not_computed, **not_english},
        metrics={metric.name: metric for metric in computed},
    )


def _compare_tables(
    tables: Sequence[MetricTable], units: Sequence[str], *, seed: int, rounds: int
) -> tuple[dict[str, tuple[Interval, ...]], dict[str, tuple[Difference, ...]]]:
    """Return scores and differences, by metric; what is resampled of a run is forgotten after its turn."""
    scores: dict[str, tuple[Interval, ...]] = {metric.name: () for metric in tables[0].metrics}
    differences: dict[str, tuple[Difference, ...]] = {metric.name: () for metric in tables[0].metrics}
    first = sums_by_unit(tables[0].values, units)
    first_drawn = resampled_sums(first, seed=seed, rounds=rounds)
    for table in tables:
        sums = sums_by_unit(table.values, units)
        drawn = resampled_sums(sums, seed=seed, rounds=rounds)
        swapped = swapped_sums(first, sums, seed=seed, rounds=rounds) if table is not tables[0] else None
        for metric in table.metrics:
            score = table.score_of(metric)
            value, values = float(score(sums.sum(axis=0))), score(drawn)
            scores[metric.name] += (interval(value, values, len(sums)),)
            if swapped is not None:
                difference = value - float(score(first.sum(axis=0)))
                resampled = values - score(first_drawn)
                p = p_value(difference, score(swapped[1]) - score(swapped[0]), len(sums))
                differences[metric.name] += (
                    Difference(
                        difference=interval(difference, resampled, len(sums)),
                        p=p,
                        p_holm=math.nan if metric.descriptive else p,
                        detectable=detectable_difference(resampled, len(sums)),
                    ),
                )
    corrected = iter(holm([row.p_holm for rows in differences.values() for row in rows]))
    return scores, {
        name: tuple(replace(row, p_holm=next(corrected)) for row in rows)
        for name, rows in differences.items()
    }


def _most_different(
    metric: Metric, tables: Sequence[MetricTable], rows: Sequence[Prediction]
) -> list[ReportDifference]:
    """Return the reports by the size of their difference; those alike are not among them.

    Ties, of which F1 has many, are in the order of the first metric of wording, and then of the images.
    """

    def apart(metric: Metric) -> tuple[Array, list[float]]:
        values = np.column_stack([table.each(metric) for table in tables])  # (N, runs)
        return values, np.nan_to_num(np.ptp(values, axis=1)).round(9).tolist()

    values, sizes = apart(metric)
    wording = next((each for each in tables[0].metrics if each.heading == "Wording"), metric)
    differing = [
        (-size, -second, row.image_id, each)
        for size, second, row, each in zip(sizes, apart(wording)[1], rows, values.tolist(), strict=True)
        if size > 0
    ]
    return [ReportDifference(name, tuple(each)) for *_, name, each in sorted(differing)[:MOST_DIFFERENT]]
