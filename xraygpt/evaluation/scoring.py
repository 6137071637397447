"""Score the reports of a run by many metrics, with intervals, controls, subgroups and the worst reports."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TypeVar

import numpy as np

from xraygpt.evaluation.labeller import CLASSES
from xraygpt.evaluation.language import LanguageCheck, check_language
from xraygpt.evaluation.metrics.clinical import RULE_F1, class_counts, present_classes, side_confusion
from xraygpt.evaluation.metrics.metric import (
    Array,
    Metric,
    MetricTable,
    make_tables,
    mean_of_values,
    micro_f1,
)
from xraygpt.evaluation.predictions import Prediction, check_same_task, group_by_column, units_of
from xraygpt.evaluation.statistics import ROUNDS, Interval, interval, resampled_sums, sums_by_unit

T = TypeVar("T")
WORST = 20
"""How many of the worst reports are named for each metric."""


@dataclass(frozen=True, slots=True)
class FindingScore:
    """How well one finding is reported."""

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


@dataclass(frozen=True, slots=True)
class SubgroupScore:
    """The scores of the reports that share a value of a column."""

    value: str
    """The value, or the band of numbers: ``female``, ``40 to 59``; ``not known`` where there is none."""
    reports: int
    studies: int
    scores: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Spread:
    """One score of several runs."""

    mean: float
    standard_deviation: float
    """Of the sample: divided by the number of runs less one."""
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """How much the seed of sampling decides: the same model on the same images, with several seeds."""

    runs: int
    same_texts: float
    """Share of the images of which two runs say the same words; the mean over all pairs of runs."""
    agreement: float
    """rule-F1 (micro, 14 classes) between the reports of two runs, likewise; NaN where they name no finding,
    or are not in English."""
    scores: Mapping[str, Spread]
    """Name of a metric -> its scores."""


@dataclass(frozen=True)
class Scores:
    """All that is known about how well a run reports; ``scores.json`` has its fields (`plain`)."""

    reports: int
    studies: int
    unit: str
    """What the bootstrap draws: ``patient`` or ``study``."""
    units: int
    """How many of them there are."""
    unit_note: str
    """Of `Units`."""
    empty: int
    """Generated reports without any text."""
    language: LanguageCheck
    """Which of them are not in English."""
    seed: int
    rounds: int
    scores: Mapping[str, Interval]
    """Name of a metric -> score."""
    controls: Mapping[str, Mapping[str, float]]
    """``shuffled``, ``blind`` and ``blind_bound`` -> name of a metric -> score: the same reports for other
    images (NaN where they cannot be exchanged between studies), `blind_report` for every image, and what no
    constant report passes (`Metric.blind_bound`; it is known of some metrics only)."""
    blind_report: str
    """What the blind control says of every image."""
    findings: Mapping[str, FindingScore]
    """Class of the labeller -> how well it is reported; none where the reports are not in English."""
    sides: Mapping[str, Mapping[str, int]]
    """Side in the reference -> side in the generated report -> number of findings, see `side_confusion`."""
    subgroups: Mapping[str, Sequence[SubgroupScore]]
    """Column -> groups."""
    worst: Mapping[str, Sequence[str]]
    """Name of a metric -> image ids, the worst first."""
    not_computed: Mapping[str, str]
    """Name of a metric -> why."""
    metrics: Mapping[str, Metric]
    """Those computed, by name."""
    seeds: SeedSpread | None
    """None where only one run is known."""
    each: Mapping[str, Array] = field(repr=False)
    """Name of a metric -> (N,) its value for each report by itself, in the order of image ids; NaN where it
    is not defined. ``predictions.csv`` has these."""


def names_by_value(values: Mapping[str, str]) -> dict[str, list[str]]:
    """Return each value -> the names that have it."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(value, []).append(name)
    return names


def score_predictions(
    predictions: Sequence[Prediction],
    metrics: Sequence[Metric],
    *,
    seed: int,
    rounds: int = ROUNDS,
    subgroups: Sequence[str] = (),
    other_seeds: Sequence[Sequence[Prediction]] = (),
) -> Scores:
    """Score a run; the order of its predictions does not matter.

    Args:
        metrics: those that cannot be computed here are noted with the reason.
        seed: of the bootstrap, which has as many `rounds`, and of the shuffling.
        subgroups: columns of the predictions whose values are scored apart.
        other_seeds: runs of the same model on the same images, sampled with other seeds.

    Raises:
        ValueError: there are no predictions.
        DataError: no such column, or one whose values make no groups; another run is not of the same images.
    """
    if not predictions:
        raise ValueError("there are no predictions to score")
    rows, *others = (sorted(run, key=lambda row: row.image_id) for run in (predictions, *other_seeds))
    for other in others:
        check_same_task(rows, other)
    groups = {column: group_by_column(rows, column) for column in subgroups}
    references, hypotheses = [row.reference for row in rows], [row.generated for row in rows]
    studies, units = [row.study_id for row in rows], units_of(rows)
    language = check_language(references, hypotheses)
    readable, not_english = language.readable(metrics)
    constant = blind_report(references)
    exchanged = shuffled(hypotheses, studies, seed)
    samples = [hypotheses, *([row.generated for row in other] for other in others)]
    controls = [[constant] * len(rows), *([exchanged] if exchanged is not None else [])]
    tables = make_tables(readable, references, samples, controls)
    table, (of_blind, *of_exchanged) = tables[0], tables[len(samples) :]
    blind = of_blind.scores()

    def intervals(places: Sequence[int]) -> dict[str, Interval]:
        sums = sums_by_unit(table.values[places], [units.ids[place] for place in places])
        resampled = resampled_sums(sums, seed=seed, rounds=rounds)
        total, scores = sums.sum(axis=0), {metric.name: table.score_of(metric) for metric in table.metrics}
        return {name: interval(of(total), of(resampled), len(sums)) for name, of in scores.items()}

    def subgroup(value: str, places: Sequence[int]) -> SubgroupScore:
        own_studies = len({studies[place] for place in places})
        return SubgroupScore(value, len(places), own_studies, intervals(places))

    findings: dict[str, FindingScore] = {}
    if language.english:
        counts = class_counts(references, hypotheses)
        findings = score_findings(CLASSES, counts, units.ids, seed=seed, rounds=rounds)
    return Scores(
        reports=len(rows),
        studies=len(set(studies)),
        unit=units.name,
        units=units.count,
        unit_note=units.note,
        empty=sum(not text.strip() for text in hypotheses),
        language=language,
        seed=seed,
        rounds=rounds,
        scores=intervals(range(len(rows))),
        controls={
            "shuffled": of_exchanged[0].scores() if of_exchanged else dict.fromkeys(blind, math.nan),
            "blind": blind,
            "blind_bound": {m.name: m.blind_bound(references) for m in table.metrics if m.blind_bound},
        },
        blind_report=constant,
        findings=findings,
        sides=side_confusion(references, hypotheses) if language.english else {},
        subgroups={
            column: [subgroup(value, places) for value, places in parts.items()]
            for column, parts in groups.items()
        },
        worst={metric.name: worst_reports(table, metric, rows) for metric in table.metrics},
        not_computed={**table.not_computed, **not_english},
        metrics={metric.name: metric for metric in table.metrics},
        seeds=_seed_spread(tables[: len(samples)], samples, language.english) if others else None,
        each={metric.name: table.each(metric) for metric in table.metrics},
    )


def _seed_spread(
    tables: Sequence[MetricTable], samples: Sequence[Sequence[str]], english: bool
) -> SeedSpread:
    scores = [table.scores() for table in tables]
    pairs = list(combinations(samples, 2))
    spreads = {}
    for name in scores[0]:
        values = np.array([of_run[name] for of_run in scores])
        ends = float(values.min()), float(values.max())
        spreads[name] = Spread(float(values.mean()), float(values.std(ddof=1)), *ends)
    return SeedSpread(
        runs=len(samples),
        same_texts=float(np.mean([same_texts(*pair) for pair in pairs])) / len(samples[0]),
        agreement=float(np.mean([RULE_F1[0](*pair) for pair in pairs])) if english else math.nan,
        scores=spreads,
    )


def same_texts(a: Sequence[str], b: Sequence[str]) -> int:
    """Return of how many images two runs say the same words."""
    return sum(x.split() == y.split() for x, y in zip(a, b, strict=True))


def score_findings(
    names: Sequence[str], counts: Array, units: Sequence[str], *, seed: int, rounds: int
) -> dict[str, FindingScore]:
    """Return the score of each of F findings that a reference or a generated report has.

    Args:
        counts: (N, F, 3), true positives, false positives and false negatives.
        units: of each report; they are what the bootstrap draws (`units_of`).
    """
    sums = sums_by_unit(counts.reshape(len(counts), -1), units)
    total, resampled = sums.sum(axis=0), resampled_sums(sums, seed=seed, rounds=rounds)
    scores = {}
    for i, name in enumerate(names):
        own, drawn = total[3 * i : 3 * i + 3], resampled[:, 3 * i : 3 * i + 3]
        hits, invented, missed = (int(count) for count in own)
        if hits or invented or missed:
            scores[name] = FindingScore(
                f1=interval(micro_f1(own), micro_f1(drawn), len(sums)),
                precision=interval(_hits_of(own, 1), _hits_of(drawn, 1), len(sums)),
                recall=interval(_hits_of(own, 2), _hits_of(drawn, 2), len(sums)),
                cases=hits + missed,
                missed=missed,
                reported=hits + invented,
                invented=invented,
            )
    return scores


def _hits_of(counts: Array, others: int) -> Array:
    """Return the share of true positives among them and the counts of one kind of error, 1 or 2."""
    return mean_of_values(np.stack([counts[..., 0], counts[..., 0] + counts[..., others]], axis=-1))


def shuffled(hypotheses: Sequence[T], studies: Sequence[str], seed: int) -> list[T] | None:
    """Return reports, of any type, in an order that gives each image one made for another study.

    The studies are put in a random order, and each image takes the report that stands as many places further
    on as the largest study has images. None where one study has more than half of all images: some would keep
    a report of their own study.
    """
    sizes = Counter(studies)
    step = max(sizes.values(), default=0)
    if 2 * step > len(hypotheses):
        return None
    names = list(sizes)
    random.Random(seed).shuffle(names)
    places = {name: place for place, name in enumerate(names)}
    order = sorted(range(len(studies)), key=lambda index: places[studies[index]])
    moved = dict(zip(order, order[step:] + order[:step], strict=True))
    return [hypotheses[moved[index]] for index in range(len(hypotheses))]


def blind_report(references: Sequence[str]) -> str:
    """Return the reference that, as the report of every image, has the highest rule-F1 (micro, 14 classes).

    Of several the most frequent, then the shortest. It is chosen on the very references that it is scored
    on, so no blind reader that repeats a known report does better in that score; in other scores some may.

    Raises:
        ValueError: there are no references.
    """
    if not references:
        raise ValueError("there are no references to choose a report from")
    present = present_classes(references)  # (N, 14)
    cases, total = present.sum(axis=0), int(present.sum())
    named = dict(zip(references, present, strict=True))
    copies = Counter(references)

    def rank(text: str) -> tuple[float, int, int, str]:
        hits, size = int(cases[named[text]].sum()), int(named[text].sum()) * len(references) + total
        return (-2 * hits / size if size else 0.0, -copies[text], len(text), text)

    return min(named, key=rank)


def worst_reports(table: MetricTable, metric: Metric, rows: Sequence[Prediction]) -> list[str]:
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
    return [image_id for *_, image_id in ranked[:WORST]]


def name_hash(name: str) -> bytes:
    """Return a key that puts images in a fixed order, which says nothing about what is in them."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
