"""Score retrieval by ranks: how often one of the right candidates is among the first k.

Shapes: Q queries, C candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RECALL_AT = (1, 5, 10)


def best_ranks(scores: NDArray[np.floating], relevant: NDArray[np.bool_]) -> list[int]:
    """Return for each query the rank, from 1, of its best relevant candidate.

    Candidates of equal score are counted before it, so that ties do not help.

    Args:
        scores: (Q, C), the higher the better.
        relevant: (Q, C); at least one in each row.

    Raises:
        ValueError: the shapes differ, or a query has no relevant candidate.
    """
    if scores.shape != relevant.shape:
        raise ValueError(f"scores {scores.shape} and relevance {relevant.shape} must have the same shape")
    if not relevant.any(axis=1).all():
        raise ValueError("every query needs a relevant candidate")
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    return [1 + int(n) for n in (~relevant & (scores >= best)).sum(axis=1)]


def recalls(ranks: Sequence[int]) -> dict[str, float]:
    """Return ``r1``, ``r5``, ``r10`` (shares of the queries) and ``median_rank``."""
    shares = {f"r{k}": sum(rank <= k for rank in ranks) / len(ranks) for k in RECALL_AT}
    return shares | {"median_rank": float(np.median(ranks))}


def chance_recalls(relevant: Sequence[int], candidates: Sequence[int]) -> dict[str, float]:
    """Return ``r1``, ``r5``, ``r10`` that random orders have on average.

    Args:
        relevant: for each query, how many of its candidates are relevant.
        candidates: for each query, how many candidates it has.
    """

    def hit_rate(relevant: int, candidates: int, k: int) -> float:
        """Return the chance that k of the candidates, drawn at random, hold a relevant one."""
        k = min(k, candidates)
        return 1.0 - math.comb(candidates - relevant, k) / math.comb(candidates, k)

    queries = list(zip(relevant, candidates, strict=True))
    return {f"r{k}": sum(hit_rate(*query, k) for query in queries) / len(queries) for k in RECALL_AT}
