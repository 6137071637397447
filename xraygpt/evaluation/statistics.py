"""How sure a score is: bootstrap intervals by study or patient, and tests of differences between runs.

A metric's score is a function of sums over reports (`xraygpt.evaluation.metrics.metric`), so every round of
a bootstrap or of a randomisation is a weighted sum over units, and many rounds are one matrix product. A unit
is what is drawn as a whole: a study with all its images, or a patient with all studies.

The random numbers are those of NumPy's PCG64 as it gives them, which NumPy holds fixed over versions and
platforms; what is made of them is done here.

Shapes: N reports, U units, K statistics of one or of several metrics side by side, R rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygpt.evaluation.metrics.metric import Array

ROUNDS = 1000
COMPARISON_ROUNDS = 10_000
"""So many that a p value can still fall below 0.05 when it is corrected for 500 tests."""
TAILS = (0.025, 0.975)
"""Quantiles at the ends of a 95 % interval."""
BLOCK_VALUES = 1 << 20
"""Weights that are in memory at a time: 8 MiB, and a few times as much to make them."""
TIE = 1e-12
"""Differences nearer to each other than this are the same but for rounding."""
DETECTABLE = 2.8016
"""Standard errors that a difference needs to be found with 80 % power by a two-sided test at 0.05: the normal
distribution's quantiles at 0.975 and 0.8 added up (Bloom: Minimum Detectable Effects, Evaluation Review 19,
1995)."""


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

    A dataclass becomes an object of its fields that it shows (``repr``), in their order, unless its
    ``to_dict`` gives another.
    """
    if isinstance(value, float):
        return round(float(value), 6) if math.isfinite(value) else None
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value) if each.repr}
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def sums_by_unit(statistics: Array, units: Sequence[str]) -> Array:
    """Add the statistics (N, K) of each unit's reports up to (U, K), units in the order of their names."""
    names, places = np.unique(np.asarray(units, dtype=object).astype(str), return_inverse=True)
    sums = np.zeros((len(names), statistics.shape[1]))
    if len(sums) == len(statistics):
        sums[places] = statistics
    else:
        np.add.at(sums, places, statistics)
    return sums


def resampled_sums(sums: Array, *, seed: int, rounds: int = ROUNDS) -> Array:
    """Draw as many of U units, with replacement, from sums (U, K); return the sum of each round, (R, K).

    The same seed and number of units give the same draws, so that two runs are resampled in pairs.
    """
    units = len(sums)
    blocks = []
    for uniform in _uniform_blocks(seed, rounds, units):
        rows = len(uniform)
        drawn = (uniform * units).astype(np.int64)
        drawn += np.arange(rows)[:, None] * units
        weights = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
        blocks.append(weights.astype(np.float64) @ sums)
    return np.concatenate(blocks)


def interval(value: Array | float, resampled: Array, units: int) -> Interval:
    """Return a score, or a difference of scores, with its 95 % percentile interval (Efron 1979).

    Rounds in which the score is not defined (no case of a rare finding was drawn) do not count. Of a single
    unit there is no interval.

    Args:
        value: of all units.
        resampled: (R,), that of each round of `resampled_sums`.
        units: how many there are.
    """
    defined = resampled[~np.isnan(resampled) & (units > 1)]
    low, high = np.quantile(defined, TAILS).tolist() if len(defined) else (math.nan, math.nan)
    return Interval(float(value), low, high)


def detectable_difference(resampled: Array, units: int) -> float:
    """Return the smallest true difference that a paired test would have found with 80 % power at 0.05.

    An approximation: `DETECTABLE` times the standard error, which is that of the bootstrap. NaN of a single
    unit, and where no variation was drawn.

    Args:
        resampled: (R,), the difference of the scores in each round of `resampled_sums`.
        units: how many there are.
    """
    defined = resampled[~np.isnan(resampled) & (units > 1)]
    error = float(defined.std()) if len(defined) else 0.0
    return DETECTABLE * error if error > TIE else math.nan


def swapped_sums(a: Array, b: Array, *, seed: int, rounds: int = ROUNDS) -> tuple[Array, Array]:
    """Exchange two runs' reports of each unit with chance one half; return both sums of each round, (R, K).

    Args:
        a, b: (U, K), of the same units.
    """
    blocks = _uniform_blocks(seed, rounds, len(a), stream=1)  # another one than that of the bootstrap
    moved = np.concatenate([(uniform < 0.5).astype(np.float64) @ (b - a) for uniform in blocks])
    return a.sum(axis=0) + moved, b.sum(axis=0) - moved


def p_value(difference: float, swapped: Array, units: int) -> float:
    """Return the two-sided p of approximate randomisation: (r + 1) / (R + 1).

    r is the number of rounds in which the runs, reports exchanged, differ at least as much as they do
    (Noreen: Computer-Intensive Methods for Testing Hypotheses, 1989). NaN where a score is not defined, and
    of a single unit; a round in which a score is not defined counts as one that differs as much.

    Args:
        difference: of the two runs' scores.
        swapped: (R,), the difference in each round of `swapped_sums`.
        units: how many there are.
    """
    if math.isnan(difference) or units < 2:
        return math.nan
    as_large = int((~(np.abs(swapped) < abs(difference) - TIE)).sum())
    return (as_large + 1) / (len(swapped) + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values of a family of tests, corrected for their number (Holm 1979).

    NaN stands for a test that could not be made; it stays, and does not count.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    corrected, least = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        least = corrected[place] = max(least, min(1.0, p * (len(known) - rank)))
    return corrected


def _uniform_blocks(seed: int, rounds: int, units: int, stream: int = 0) -> Iterator[NDArray[np.float64]]:
    """Yield numbers from [0, 1), (rounds, units) in all, some rounds at a time."""
    bits = np.random.PCG64(np.random.SeedSequence([seed, stream]))
    at_once = max(1, BLOCK_VALUES // units)
    for begin in range(0, rounds, at_once):
        shape = (min(at_once, rounds - begin), units)
        raw = bits.random_raw(shape[0] * shape[1])
        yield (raw >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-53
