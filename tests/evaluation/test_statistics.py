from __future__ import annotations

import math

import numpy as np
import pytest

from xraygpt.evaluation import statistics
from xraygpt.evaluation.metrics.metric import Array, mean_of_values, with_counts
from xraygpt.evaluation.statistics import (
    Interval,
    detectable_difference,
    holm,
    interval,
    p_value,
    plain,
    resampled_sums,
    sums_by_unit,
    swapped_sums,
)


def bootstrapped(sums: Array, seed: int = 0, rounds: int = 1000) -> Interval:
    resampled = resampled_sums(sums, seed=seed, rounds=rounds)
    return interval(mean_of_values(sums.sum(axis=0)), mean_of_values(resampled), len(sums))


def difference(a: Array, b: Array) -> Array:
    return mean_of_values(b) - mean_of_values(a)


def resampled_difference(a: Array, b: Array, rounds: int = 1000) -> Array:
    return difference(*(resampled_sums(sums, seed=0, rounds=rounds) for sums in (a, b)))


def difference_of(a: Array, b: Array, rounds: int) -> Interval:
    return interval(difference(a.sum(axis=0), b.sum(axis=0)), resampled_difference(a, b, rounds), len(a))


def p_of(a: Array, b: Array, seed: int = 0, rounds: int = 1000) -> float:
    observed = float(difference(a.sum(axis=0), b.sum(axis=0)))
    return p_value(observed, difference(*swapped_sums(a, b, seed=seed, rounds=rounds)), len(a))


def test_draws_are_as_many_studies_as_there_are_and_the_same_everywhere() -> None:
    weights = resampled_sums(np.eye(5), seed=3, rounds=4)
    assert weights.tolist() == [[2, 1, 1, 0, 1], [2, 0, 2, 1, 0], [0, 1, 3, 1, 0], [0, 2, 0, 2, 1]]
    many = resampled_sums(np.eye(5), seed=3, rounds=4000)
    assert (many.sum(axis=1) == 5).all()
    assert many.mean(axis=0) == pytest.approx(np.ones(5), abs=0.06)
    assert many.var(axis=0) == pytest.approx(np.full(5, 0.8), abs=0.08)  # of a binomial: 5 * 1/5 * 4/5


def test_blocks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(0).random((30, 3))

    def draws() -> list[Array]:
        swapped = swapped_sums(sums, sums[::-1], seed=1, rounds=100)
        return [resampled_sums(sums, seed=1, rounds=100), *swapped]

    whole = draws()
    monkeypatch.setattr(statistics, "BLOCK_VALUES", 70)
    for part, expected in zip(draws(), whole, strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-12)


def test_interval_of_a_proportion() -> None:
    result = bootstrapped(with_counts([1.0] * 80 + [0.0] * 20))  # standard error 0.04
    assert result.value == pytest.approx(0.8)
    assert (result.low, result.high) == (pytest.approx(0.72, abs=0.02), pytest.approx(0.88, abs=0.02))
    assert bootstrapped(with_counts([1.0] * 80 + [0.0] * 20), seed=1) != result


def test_units_are_drawn_as_a_whole() -> None:
    values = np.random.default_rng(0).random(50)
    studies = [f"study {i:02}" for i in range(50)]
    each = bootstrapped(sums_by_unit(with_counts(values.tolist()), studies))
    four = bootstrapped(sums_by_unit(with_counts([*values.tolist()] * 4), studies * 4))
    apart = bootstrapped(with_counts([*values.tolist()] * 4))
    assert (four.value, four.low, four.high) == pytest.approx((each.value, each.low, each.high))
    assert apart.high - apart.low < 0.7 * (four.high - four.low)


def test_sums_by_unit_are_in_the_order_of_names() -> None:
    values = np.array([[1.0, 10], [2, 20], [4, 40]])
    assert sums_by_unit(values, ["b", "a", "b"]).tolist() == [[2, 20], [5, 50]]
    assert sums_by_unit(values, ["c", "b", "a"]).tolist() == values[::-1].tolist()


def test_scores_that_are_not_defined() -> None:
    none = np.zeros((4, 2))
    assert math.isnan(bootstrapped(none).value)
    assert plain(bootstrapped(none)) == {"value": None, "low": None, "high": None}
    rare = np.array([[1.0, 1.0], [0, 0], [0, 0]])  # many rounds do not draw the only case
    assert plain(bootstrapped(rare)) == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert math.isnan(p_of(none, none))


def test_a_single_unit_has_no_interval_and_no_test() -> None:
    assert plain(bootstrapped(np.array([[3.0, 4.0]]))) == {"value": 0.75, "low": None, "high": None}
    assert math.isnan(p_of(with_counts([0.0]), with_counts([1.0])))


def test_a_run_does_not_differ_from_itself() -> None:
    sums = with_counts(np.random.default_rng(0).random(40).tolist())
    assert difference_of(sums, sums, rounds=200) == Interval(0.0, 0.0, 0.0)
    assert p_of(sums, sums) == 1.0


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(100)
    a, b = with_counts(hard.tolist()), with_counts((hard + 0.05 + 0.01 * rng.random(100)).tolist())
    paired = difference_of(a, b, rounds=1000)
    assert 0.05 < paired.low < paired.value < paired.high < 0.06
    assert bootstrapped(a).high > bootstrapped(b).low
    assert p_of(a, b) == 1 / 1001


def test_detectable_difference_is_found_with_80_percent_power() -> None:
    rng, rounds = np.random.default_rng(0), 200
    noise = 0.3 * rng.standard_normal(100)
    a, b = with_counts([0.5] * 100), with_counts((0.5 + noise).tolist())
    detectable = detectable_difference(resampled_difference(a, b), units=100)
    assert detectable == pytest.approx(2.8016 * 0.3 / 10, rel=0.15)
    found = [
        p_of(a, with_counts((0.5 + detectable + 0.3 * rng.standard_normal(100)).tolist()), seed, 200) < 0.05
        for seed in range(rounds)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.1)
    for nothing, units in ((np.full(5, np.nan), 9), (np.arange(5.0), 1), (np.full(5, 0.1), 9)):
        assert math.isnan(detectable_difference(nothing, units))


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.02, math.nan, 0.9]) == pytest.approx([0.04, math.nan, 0.9], nan_ok=True)
    assert holm([0.7, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_p_of_few_studies_is_that_of_all_their_exchanges() -> None:
    a, b = with_counts([0.0] * 5), with_counts([1.0] * 5)
    assert p_of(a, b, rounds=20_000) == pytest.approx(2 / 2**5, abs=0.005)
    assert p_of(a, b) == p_of(b, a)


def test_p_is_uniform_where_runs_do_not_differ() -> None:
    rng = np.random.default_rng(0)
    values = [
        p_of(with_counts(rng.random(30).tolist()), with_counts(rng.random(30).tolist()), seed, 200)
        for seed in range(300)
    ]
    assert np.mean([p <= 0.05 for p in values]) == pytest.approx(0.05, abs=0.035)
    assert np.mean(values) == pytest.approx(0.5, abs=0.06)
