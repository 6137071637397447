"""The statistics of several metrics side by side, so that one bootstrap serves all of them.

Shapes: N reports, S studies, K statistics of all metrics together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from xraygpt.common.errors import UnavailableMetricError
from xraygpt.evaluation.metrics.meteor import METEOR
from xraygpt.evaluation.metrics.metric import Array, Metric
from xraygpt.evaluation.statistics import Score

Statistics = Callable[[Sequence[str], Sequence[str]], Array]

OUTSIDE_PYTHON = (METEOR.statistics,)
"""Statistics of each report by itself that another program computes, while Python goes on with the others."""


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
        return partial(_score_part, metric, self.places[metric.name])

    def scores(self) -> dict[str, float]:
        """Return the score of all reports together, by each metric."""
        total = self.values.sum(axis=0)
        return {metric.name: float(self.score_of(metric)(total)) for metric in self.metrics}

    def each(self, metric: Metric) -> Array:
        """Return the score of each report by itself, (N,); NaN where it is not defined."""
        return self.score_of(metric)(self.values)


def make_tables(
    metrics: Sequence[Metric], references: Sequence[str], runs: Sequence[Sequence[str]]
) -> list[MetricTable]:
    """Let each metric look at the reports of several runs on the same references; return a table of each run.

    Metrics with one function of statistics between them share what it gives. Those that are not available
    are noted as not computed.
    """
    functions = dict.fromkeys(metric.statistics for metric in metrics)
    with ThreadPoolExecutor(max_workers=1) as other_program:
        waiting = {
            function: other_program.submit(_count_together, function, references, runs)
            for function in functions
            if function in OUTSIDE_PYTHON
        }
        found = {
            function: _count(function, references, runs) for function in functions if function not in waiting
        }
        found |= {function: future.result() for function, future in waiting.items()}
    reasons = {function: outcome for function, outcome in found.items() if isinstance(outcome, str)}
    counts = {function: outcome for function, outcome in found.items() if not isinstance(outcome, str)}
    return [
        _table(metrics, {function: parts[number] for function, parts in counts.items()}, reasons, len(texts))
        for number, texts in enumerate(runs)
    ]


def _count(
    function: Statistics, references: Sequence[str], runs: Sequence[Sequence[str]]
) -> list[Array] | str:
    """Return the statistics of each run, or why there are none."""
    try:
        return [function(references, texts) for texts in runs]
    except UnavailableMetricError as error:
        return str(error)


def _count_together(
    function: Statistics, references: Sequence[str], runs: Sequence[Sequence[str]]
) -> list[Array] | str:
    """Return the same, from one call: starting the program takes as long as its work."""
    outcome = _count(function, [*references] * len(runs), [[*chain.from_iterable(runs)]])
    return outcome if isinstance(outcome, str) else np.split(outcome[0], len(runs))


def _table(
    metrics: Sequence[Metric],
    counts: Mapping[Statistics, Array],
    reasons: Mapping[Statistics, str],
    reports: int,
) -> MetricTable:
    ends = np.cumsum([0, *(part.shape[1] for part in counts.values())]).tolist()
    places = {function: slice(*ends[i : i + 2]) for i, function in enumerate(counts)}
    return MetricTable(
        metrics=tuple(metric for metric in metrics if metric.statistics in counts),
        values=np.column_stack([np.zeros((reports, 0)), *counts.values()]),
        places={m.name: places[m.statistics] for m in metrics if m.statistics in places},
        not_computed={m.name: reasons[m.statistics] for m in metrics if m.statistics in reasons},
    )


def _score_part(metric: Metric, place: slice, sums: Array) -> Array:
    return metric.score(sums[..., place])
