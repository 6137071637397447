"""F1 from counts of hits, false alarms and misses.

Shapes: the last axis of counts is (true positives, false positives, false negatives).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from xraygpt.evaluation.metrics.metric import Array


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
