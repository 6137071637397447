"""How sure a score is: bootstrap intervals by study, and tests of the difference between two runs.

A metric's score is a function of sums over reports (`xraygpt.evaluation.metrics.metric`), so every round of
a bootstrap or of a randomisation is a weighted sum over studies, and many rounds are one matrix product.

The random numbers are those of NumPy's PCG64 as it gives them, which NumPy holds fixed over versions and
platforms; what is made of them is done here.

Shapes: N reports, S studies, K statistics of one or of several metrics side by side, R rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygpt.evaluation.metrics.metric import Array, Score

ROUNDS = 1000
TAILS = (0.025, 0.975)
"""Quantiles at the ends of a 95 % interval."""
BLOCK_VALUES = 1 << 20
"""Weights that are in memory at a time: 8 MiB, and a few times as much to make them."""
TIE = 1e-12
"""Differences nearer to each other than this are the same but for rounding."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A score and its 95 % interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """There is an interval."""
        return self.low <= self.high


def plain(value: Any) -> Any:
    """Return what goes into a JSON file: numbers with six decimals, None for NaN and infinity.

    A dataclass becomes an object of its fields, in their order, unless its ``to_dict`` gives another.
    """
    if isinstance(value, float):
        return round(float(value), 6) if math.isfinite(value) else None
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def sums_by_study(statistics: Array, studies: Sequence[str]) -> Array:
    """Add the statistics (N, K) of each study's reports up to (S, K), studies in the order of their names."""
    names, places = np.unique(np.asarray(studies, dtype=object).astype(str), return_inverse=True)
    sums = np.zeros((len(names), statistics.shape[1]))
    if len(sums) == len(statistics):
        sums[places] = statistics
    else:
        np.add.at(sums, places, statistics)
    return sums


def resampled_sums(sums: Array, *, seed: int, rounds: int = ROUNDS) -> Array:
    """Draw as many of S studies, with replacement, from sums (S, K); return the sum of each round, (R, K).

    The same seed and number of studies give the same draws.
    """
    studies = len(sums)
    blocks = []
    for uniform in _uniform_blocks(seed, rounds, studies):
        rows = len(uniform)
        drawn = (uniform * studies).astype(np.int64)
        drawn += np.arange(rows)[:, None] * studies
        weights = np.bincount(drawn.ravel(), minlength=rows * studies).reshape(rows, studies)
        blocks.append(weights.astype(np.float64) @ sums)
    return np.concatenate(blocks)


def interval(score: Score, sums: Array, resampled: Array) -> Interval:
    """Return the score of all studies with its 95 % percentile interval (Efron 1979).

    Rounds in which the score is not defined (no case of a rare finding was drawn) do not count. Of a single
    study there is no interval.

    Args:
        score: of the difference of two runs too, where (S, 2 K) sums are those of both side by side; this is
            the paired bootstrap.
        sums: (S, K).
        resampled: (R, K), of `resampled_sums`.
    """
    value, values = float(score(sums.sum(axis=0))), score(resampled)
    defined = values[~np.isnan(values)]
    if len(sums) == 1 or not len(defined):
        return Interval(value, math.nan, math.nan)
    return Interval(value, *np.quantile(defined, TAILS).tolist())


def swapped_sums(sums: Array, *, seed: int, rounds: int = ROUNDS) -> Array:
    """Exchange two runs' reports of each study with chance one half; return the sums of each round, (R, 2 K).

    Args:
        sums: (S, 2 K) of both runs side by side.
    """
    a, b = np.split(sums, 2, axis=1)
    blocks = _uniform_blocks(seed, rounds, len(a), stream=1)  # another one than that of the bootstrap
    moved = np.concatenate([(uniform < 0.5).astype(np.float64) @ (b - a) for uniform in blocks])
    return np.hstack([a.sum(axis=0) + moved, b.sum(axis=0) - moved])


def p_value(difference: Score, sums: Array, swapped: Array) -> float:
    """Return the two-sided p of approximate randomisation: (r + 1) / (R + 1).

    r is the number of rounds in which the runs, reports exchanged, differ at least as much as they do
    (Noreen: Computer-Intensive Methods for Testing Hypotheses, 1989). NaN where a score is not defined; a
    round in which one is not counts as one that differs as much.

    Args:
        difference: of the two runs' scores, from the sums (..., 2 K) of both.
        sums: (S, 2 K).
        swapped: (R, 2 K), of `swapped_sums`.
    """
    observed = abs(float(difference(sums.sum(axis=0))))
    if math.isnan(observed):
        return math.nan
    differences = np.abs(difference(swapped))
    as_large = int((~(differences < observed - TIE)).sum())
    return (as_large + 1) / (len(differences) + 1)


def _uniform_blocks(seed: int, rounds: int, studies: int, stream: int = 0) -> Iterator[NDArray[np.float64]]:
    """Yield numbers from [0, 1), (rounds, studies) in all, some rounds at a time."""
    bits = np.random.PCG64(np.random.SeedSequence([seed, stream]))
    at_once = max(1, BLOCK_VALUES // studies)
    for begin in range(0, rounds, at_once):
        shape = (min(at_once, rounds - begin), studies)
        raw = bits.random_raw(shape[0] * shape[1])
        yield (raw >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-53
