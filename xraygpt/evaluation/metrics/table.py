"""The statistics of several metrics side by side, so that one bootstrap serves all of them.

Shapes: N reports, S studies, K statistics of all metrics together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import numpy as np

from xraygpt.common.errors import UnavailableMetricError
from xraygpt.evaluation.metrics.metric import Array, Metric, Score, Statistics


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
    metrics: Sequence[Metric], references: Sequence[str], runs: Sequence[Sequence[str]]
) -> list[MetricTable]:
    """Let each metric look at the reports of several runs on the same references; return a table of each run.

    Metrics with one function of statistics between them share what it gives. Those that are not available
    are noted as not computed.
    """
    outside = dict.fromkeys(metric.statistics for metric in metrics if metric.outside_python)
    functions = dict.fromkeys(metric.statistics for metric in metrics)
    with ThreadPoolExecutor(max_workers=1) as other_program:
        waiting = {f: other_program.submit(_count, f, references, runs, together=True) for f in outside}
        found = {f: _count(f, references, runs, together=False) for f in functions if f not in waiting}
        found |= {f: future.result() for f, future in waiting.items()}
    counts = {f: outcome for f, outcome in found.items() if not isinstance(outcome, str)}
    ends = np.cumsum([0, *(parts[0].shape[1] for parts in counts.values())]).tolist()
    places = {f: slice(*ends[i : i + 2]) for i, f in enumerate(counts)}
    computed = tuple(metric for metric in metrics if metric.statistics in counts)
    return [
        MetricTable(
            metrics=computed,
            values=np.column_stack(
                [np.zeros((len(texts), 0)), *(parts[number] for parts in counts.values())]
            ),
            places={metric.name: places[metric.statistics] for metric in computed},
            not_computed={m.name: str(found[m.statistics]) for m in metrics if m not in computed},
        )
        for number, texts in enumerate(runs)
    ]


def _count(
    function: Statistics, references: Sequence[str], runs: Sequence[Sequence[str]], *, together: bool
) -> list[Array] | str:
    """Return the statistics of each run, or why there are none.

    Args:
        together: take them from one call, for starting another program takes as long as its work.
    """
    try:
        if not together:
            return [function(references, texts) for texts in runs]
        return np.split(function([*references] * len(runs), [*chain.from_iterable(runs)]), len(runs))
    except UnavailableMetricError as error:
        return str(error)
