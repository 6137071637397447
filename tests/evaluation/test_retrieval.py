from __future__ import annotations

import numpy as np
import pytest

from xraygpt.evaluation.retrieval import best_ranks, chance_recalls, recalls

SCORES = np.array([[0.9, 0.1, 0.2], [0.3, 0.2, 0.1], [0.5, 0.5, 0.5]])
EYE = np.eye(3, dtype=bool)


def test_rank_of_the_one_relevant_candidate() -> None:
    # The last row is a tie, which counts against.
    assert best_ranks(SCORES, EYE) == [1, 2, 3]


def test_best_of_several_relevant_candidates_counts() -> None:
    relevant = EYE | EYE[[1, 0, 2]]
    assert best_ranks(SCORES, relevant) == [1, 1, 3]
    assert best_ranks(SCORES, np.ones((3, 3), dtype=bool)) == [1, 1, 1]


def test_candidates_out_of_reach_are_last() -> None:
    scores = np.array([[-100.0, 5.0, -100.0]])
    assert best_ranks(scores, np.array([[True, False, False]])) == [3]


def test_impossible_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="relevant candidate"):
        best_ranks(SCORES, np.zeros((3, 3), dtype=bool))
    with pytest.raises(ValueError, match="same shape"):
        best_ranks(SCORES, np.eye(2, dtype=bool))


def test_recalls() -> None:
    assert recalls([1, 2, 5, 6, 11]) == {"r1": 0.2, "r5": 0.6, "r10": 0.8, "median_rank": 5.0}


def test_chance() -> None:
    # One of 20 and four of 8: 1 - (4 * 3 * 2 * 1 * 0) / ... is certain for k = 5.
    chance = chance_recalls(relevant=[1, 4], candidates=[20, 8])
    assert chance["r1"] == pytest.approx((1 / 20 + 1 / 2) / 2)
    assert chance["r5"] == pytest.approx((5 / 20 + 1) / 2)
    assert chance["r10"] == pytest.approx((10 / 20 + 1) / 2)


def test_chance_is_what_random_orders_give() -> None:
    rng = np.random.default_rng(0)
    relevant = np.repeat(np.eye(5, dtype=bool), 2, axis=1)  # two of ten candidates for each query
    ranks = [rank for _ in range(2000) for rank in best_ranks(rng.random((5, 10)), relevant)]
    expected = chance_recalls([2] * 5, [10] * 5)
    found = recalls(ranks)
    assert found["r1"] == pytest.approx(expected["r1"], abs=0.02)
    assert found["r5"] == pytest.approx(expected["r5"], abs=0.02)
