"""What a metric is: numbers for each report that add up, and the score of their sum.

Everything that is done with a metric (the score of a run, its intervals, subgroups, comparisons of two runs,
the worst reports) needs only these two functions, since a sample of studies is a sum with other weights.

Shapes: N reports, K numbers for each, of one metric or of several side by side (`MetricTable`), so that one
bootstrap serves all of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xraygpt.common.errors import UnavailableMetricError

Array = NDArray[np.float64]
Statistics = Callable[[Sequence[str], Sequence[str]], Array]
"""``(references, hypotheses) -> (N, K)``."""
Score = Callable[[Array], Array]
"""``(..., K) -> (...)``: from sums of statistics to the score; NaN where it is not defined."""
Heading = Literal["Findings", "Wording", "Errors", "Length and variety"]


def mean_of_values(sums: Array) -> Array:
    """The `score` of a metric whose statistics are (value, 1) for each report."""
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Array = sums[..., 0] / sums[..., 1]
    return result


@dataclass(frozen=True)
class Metric:
    """A score of generated reports against references."""

    name: str
    """Key in ``scores.json``: ``rouge_l``, ``bleu_4``, ``rule_f1_micro_14``."""
    title: str
    """How a table calls it: ``ROUGE-L``."""
    equals: str
    """The published implementation whose numbers these are, with version and settings; or, for a metric of
    this project, its definition in one sentence."""
    statistics: Statistics
    """Corpus-wide quantities, such as CIDEr's document frequencies, come from all references given. Metrics
    that share the function share its work."""
    score: Score = mean_of_values
    heading: Heading = "Wording"
    """Under which the page shows it."""
    higher_is_better: bool = True
    """False for rates of errors."""
    descriptive: bool = False
    """Neither high nor low is better, as with lengths."""
    highest: float = 1.0
    """Upper end of the scale (100 for sacrebleu)."""
    english_only: bool = False
    """It reads reports by English rules or tables, and says nothing of reports in another language."""
    blind_bound: Callable[[Sequence[str]], float] | None = None
    """The score that no constant report passes on these references (`blind_micro_f1`), where it is known."""
    outside_python: bool = False
    """Another program computes the statistics, of each report by itself, while Python goes on."""
    slow: bool = False
    """Too slow for controls, which go without it (NaN)."""

    def __call__(self, references: Sequence[str], hypotheses: Sequence[str]) -> float:
        """Return the score of all reports together."""
        return float(self.score(self.statistics(references, hypotheses).sum(axis=0)))

    def to_dict(self) -> dict[str, Any]:
        """Return what a reader of ``scores.json`` has to know about the metric."""
        return {name: getattr(self, name) for name in ("title", "equals", "higher_is_better", "highest")}


@dataclass(frozen=True)
class MetricTable:
    """What the metrics count in each report of a run."""

    metrics: tuple[Metric, ...]
    values: Array
    """(N, K) statistics of all metrics."""
    places: Mapping[str, slice]
    """Name of a metric -> its columns."""
    not_computed: Mapping[str, str]
    """Names of the metrics that cannot be computed here -> why."""

    def score_of(self, metric: Metric) -> Score:
        """Return the function from sums (..., K) of all metrics to the score (...) of one."""
        place = self.places[metric.name]
        return lambda sums: metric.score(sums[..., place])

    def scores(self) -> dict[str, float]:
        """Return the score of all reports together, by each metric."""
        total = self.values.sum(axis=0)
        return {metric.name: float(self.score_of(metric)(total)) for metric in self.metrics}

    def each(self, metric: Metric) -> Array:
        """Return the score of each report by itself, (N,); NaN where it is not defined."""
        return self.score_of(metric)(self.values)


def make_tables(
    metrics: Sequence[Metric],
    references: Sequence[str],
    runs: Sequence[Sequence[str]],
    controls: Sequence[Sequence[str]] = (),
) -> list[MetricTable]:
    """Let each metric look at runs and controls on the same references; return a table of each, in order."""
    work = {metric.statistics: partial(_count, metric, references, runs, controls) for metric in metrics}
    outside = {metric.statistics for metric in metrics if metric.outside_python}
    with ThreadPoolExecutor(max_workers=1) as other_program:
        waiting = {f: other_program.submit(count) for f, count in work.items() if f in outside}
        found = {f: count() for f, count in work.items() if f not in outside}
        found |= {f: future.result() for f, future in waiting.items()}
    counts = {f: outcome for f, outcome in found.items() if not isinstance(outcome, str)}
    ends = np.cumsum([0, *(parts[0].shape[1] for parts in counts.values())]).tolist()
    places = {f: slice(*ends[i : i + 2]) for i, f in enumerate(counts)}
    computed = tuple(metric for metric in metrics if metric.statistics in counts)
    return [
        MetricTable(
            metrics=computed,
            values=np.column_stack(
                [np.zeros((len(references), 0)), *(parts[number] for parts in counts.values())]
            ),
            places={metric.name: places[metric.statistics] for metric in computed},
            not_computed={m.name: str(found[m.statistics]) for m in metrics if m not in computed},
        )
        for number in range(len(runs) + len(controls))
    ]


def _count(
    metric: Metric,
    references: Sequence[str],
    runs: Sequence[Sequence[str]],
    controls: Sequence[Sequence[str]],
) -> list[Array] | str:
    """Return the statistics of each run and control, or why there are none."""
    everything = [*runs, *controls]
    try:
        if metric.outside_python:  # to start the other program takes as long as its work
            texts = [*references] * len(everything), [*chain.from_iterable(everything)]
            return np.split(metric.statistics(*texts), len(everything))
        counts = [metric.statistics(references, run) for run in (runs if metric.slow else everything)]
    except UnavailableMetricError as error:
        return str(error)
    return counts + [np.full_like(counts[0], np.nan)] * (len(everything) - len(counts))


error_rate = partial(Metric, heading="Errors", higher_is_better=False)
"""How often generated reports have an error, whatever their references say."""


def with_counts(values: Sequence[float]) -> Array:
    """Return the statistics (value, 1) of each report, for `mean_of_values`."""
    return np.column_stack([np.asarray(values, dtype=np.float64), np.ones(len(values))])


def mean_over_pairs(value: Callable[[str, str], float]) -> Statistics:
    """Return the statistics of a metric that is the mean of a value of (reference, hypothesis)."""
    return lambda references, hypotheses: with_counts(
        [value(r, h) for r, h in zip(references, hypotheses, strict=True)]
    )


def mean_over_generated(value: Callable[[str], float]) -> Statistics:
    """Return the same of a value of the generated report alone."""
    return mean_over_pairs(lambda reference, hypothesis: value(hypothesis))


def f1_of_sets(
    name: str,
    title: str,
    equals: str,
    read: Callable[[str], AbstractSet[Hashable]],
    *,
    of_nothing: float = math.nan,
    english_only: bool = False,
) -> Metric:
    """Return the metric that is the micro-F1 of the sets of findings that `read` finds in the two reports."""

    def blind_bound(references: Sequence[str]) -> float:
        cases = Counter(chain.from_iterable(map(read, references)))
        return blind_micro_f1(cases.values(), len(references), of_nothing)

    return Metric(
        name,
        title,
        equals,
        statistics=lambda references, hypotheses: count_set_matches(
            [*map(read, references)], [*map(read, hypotheses)]
        ),
        score=partial(micro_f1, of_nothing=of_nothing),
        heading="Findings",
        english_only=english_only,
        blind_bound=blind_bound,
    )


def count_set_matches(
    references: Sequence[AbstractSet[Hashable]], hypotheses: Sequence[AbstractSet[Hashable]]
) -> Array:
    """Return the counts (N, 3) of each pair of sets: true positives, false positives, false negatives."""
    counts = [(len(r & h), len(h - r), len(r - h)) for r, h in zip(references, hypotheses, strict=True)]
    return np.array(counts, dtype=np.float64).reshape(len(references), 3)


def count_class_matches(truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> Array:
    """Return the same counts of each report in each class, (N, C, 3), from its classes (N, C)."""
    return np.stack([truth & found, ~truth & found, truth & ~found], axis=-1).astype(np.float64)


def micro_f1(counts: Array, of_nothing: float = math.nan) -> Array:
    """Return the F1 (...) of counts (..., 3); `of_nothing` where nothing is there and nothing was found."""
    hits = 2 * counts[..., 0]
    total = hits + counts[..., 1] + counts[..., 2]
    result: Array = np.where(total > 0, hits / np.where(total > 0, total, 1), of_nothing)
    return result


def blind_micro_f1(cases: Iterable[int], reports: int, of_nothing: float = math.nan) -> float:
    """Return the micro-F1 of the best constant report, which names the most frequent findings.

    It is chosen on the very references that it is scored on, so no constant report passes it. Like that of
    `blind_macro_f1`, its set of findings need not make sense as a report.

    Args:
        cases: of each finding, how many of the `reports` have it.
        of_nothing: the score where there is nothing to find.
    """
    hits = np.cumsum(sorted(cases, reverse=True))  # by how many findings it names
    if not hits.any():
        return of_nothing
    return float((2 * hits / (np.arange(1, len(hits) + 1) * reports + hits[-1])).max())


def blind_macro_f1(cases: Sequence[int], reports: int) -> float:
    """Return the mean F1 of the best constant report, which names every class; no other passes it.

    Named always, a class that a share p of the reports has gets an F1 of 2 p / (p + 1), and not named 0. NaN
    where there is nothing to find in any class.
    """
    if not any(cases):
        return math.nan
    return sum(2 * count / (count + reports) for count in cases) / len(cases)
