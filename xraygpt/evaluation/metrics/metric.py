"""What a metric is: numbers for each report that add up, and the score of their sum.

Everything that is done with a metric (the score of a run, its intervals, subgroups, comparisons of two runs,
the worst reports) needs only these two functions, since a sample of studies is a sum with other weights.

Shapes: N reports, K numbers for each.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from collections.abc import Set as AbstractSet
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


def count_set_matches(
    references: Sequence[AbstractSet[Hashable]], hypotheses: Sequence[AbstractSet[Hashable]]
) -> Array:
    """Return the counts (N, 3) of each pair of sets."""
    counts = [(len(r & h), len(h - r), len(r - h)) for r, h in zip(references, hypotheses, strict=True)]
    return np.array(counts, dtype=np.float64).reshape(len(references), 3)


def f1_of_counts(counts: Array, of_nothing: float) -> Array:
    """Return the F1 (...) of counts (..., 3); `of_nothing` where nothing is there and nothing was found."""
    hits = 2 * counts[..., 0]
    total = hits + counts[..., 1] + counts[..., 2]
    result: Array = np.where(total > 0, hits / np.where(total > 0, total, 1), of_nothing)
    return result


def micro_f1(sums: Array) -> Array:
    """Return the F1 of counts (..., 3); NaN where nothing is there and nothing was found."""
    return f1_of_counts(sums, np.nan)


def macro_f1(sums: Array) -> Array:
    """Return the mean F1 of classes, from their counts in a row (..., 3 * classes).

    A class that is nowhere has an F1 of 0, as with ``zero_division=0`` of scikit-learn; if all are, the
    mean is NaN.
    """
    counts = sums.reshape(*sums.shape[:-1], -1, 3)
    result: Array = f1_of_counts(counts, 0.0).mean(axis=-1)
    return np.where(sums.sum(axis=-1) > 0, result, np.nan)
