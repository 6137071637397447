"""What a metric is: numbers for each report that add up, and the score of their sum.

Everything that is done with a metric (the score of a run, its intervals, subgroups, comparisons of two runs,
the worst reports) needs only these two functions, since a sample of studies is a sum with other weights.

Shapes: N reports, K numbers for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
    statistics: Callable[[Sequence[str], Sequence[str]], Array]
    """``(references, hypotheses) -> (N, K)``; corpus-wide quantities, such as CIDEr's document frequencies,
    come from all references given."""
    score: Callable[[Array], Array]
    """``(..., K) -> (...)``: from sums of statistics to the score; NaN where it is not defined."""
    higher_is_better: bool = True
    """False for rates of errors; None-like metrics (lengths) say so in `equals`."""
    highest: float = 1.0
    """Upper end of the scale (100 for sacrebleu)."""
    english_only: bool = False
    """It reads reports by English rules or tables, and says nothing of reports in another language."""

    def __call__(self, references: Sequence[str], hypotheses: Sequence[str]) -> float:
        """Return the score of all reports together."""
        return float(self.score(self.statistics(references, hypotheses).sum(axis=0)))


def mean_of_values(sums: Array) -> Array:
    """The `score` of a metric whose statistics are (value, 1) for each report."""
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Array = sums[..., 0] / sums[..., 1]
    return result


def with_counts(values: Sequence[float]) -> Array:
    """Return the statistics (value, 1) of each report, for `mean_of_values`."""
    return np.column_stack([np.asarray(values, dtype=np.float64), np.ones(len(values))])
