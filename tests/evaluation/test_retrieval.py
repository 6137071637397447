"""Ranks, recalls and the rows of image-report pairs, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xraygpt.evaluation.retrieval import (
    best_ranks,
    chance_recalls,
    recalls,
    retrieval_metrics,
    retrieval_rows,
)
from xraygpt.runners.launch import metrics_table

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


def queries(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "image_ids": ["a", "b", "c", "d"],
        "study_ids": ["s", "s", "t", "u"],
        "reports": ["one", "two", "three", "three"],
        "sources": ["x"] * 4,
        "labels": None,
    }
    return values | changes


# Four images and the three distinct texts of their reports.
CONTRAST = np.array([[0.1, 0.9, 0.0], [0.0, 0.1, 0.9], [0.0, 0.1, 0.9], [0.9, 0.8, 0.2]], dtype=np.float32)
RIGHT = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=np.float32)
BY_METHOD = {"contrastive": (CONTRAST, CONTRAST.T), "reranked": (RIGHT, RIGHT.T)}


def ranks(rows: list[dict[str, Any]], kind: str, method: str, direction: str) -> list[int]:
    return [row[kind][method][direction] for row in rows]


def relevant(rows: list[dict[str, Any]], kind: str, direction: str) -> list[int]:
    return [row[kind]["relevant"][direction] for row in rows]


def test_any_report_of_the_study_or_of_the_same_words_is_right() -> None:
    rows = retrieval_rows(BY_METHOD, **queries())
    assert ranks(rows, "same_report", "contrastive", "image_to_report") == [1, 2, 1, 3]
    assert ranks(rows, "same_report", "contrastive", "report_to_image") == [2, 1, 2, 2]
    assert ranks(rows, "same_report", "reranked", "report_to_image") == [1, 1, 1, 1]
    assert relevant(rows, "same_report", "image_to_report") == [2, 2, 1, 1]
    assert relevant(rows, "same_report", "report_to_image") == [2, 2, 2, 2]
    assert [row["first_contrastive"] for row in rows] == ["b", "c", "c", "a"]
    assert "same_findings" not in rows[0]


def test_copies_of_a_report_are_one_candidate_and_images_are_several() -> None:
    number = 20
    names = [str(i) for i in range(1 + number)]
    given = queries(
        image_ids=names,
        study_ids=names,
        reports=["right", *["wrong"] * number],
        sources=["x"] * (1 + number),
    )
    # Everything wrong is more similar to image and report of the first pair than what is right.
    scores = np.full((1 + number, 2), 0.9, dtype=np.float32)
    scores[0, 0] = 0.5
    rows = retrieval_rows({"contrastive": (scores, scores.T), "reranked": (scores, scores.T)}, **given)
    for method in ("contrastive", "reranked"):
        assert ranks(rows, "same_report", method, "image_to_report")[0] == 2
        assert ranks(rows, "same_report", method, "report_to_image")[0] == 1 + number
    # A random order has one of two texts right, and one or 20 of 21 images.
    chance = retrieval_metrics(rows)["chance"]
    assert chance["image_to_report"]["r1"] == pytest.approx(1 / 2)
    assert chance["report_to_image"]["r1"] == pytest.approx((1 / 21 + number * number / 21) / 21)


def test_a_text_is_right_if_any_of_its_copies_is() -> None:
    # Both texts are right for the first four images; either copy may be the one that belongs to the study.
    given = queries(
        image_ids=list("abcde"),
        study_ids=["s", "s", "t", "t", "u"],
        reports=["one", "two", "two", "one", "three"],
        sources=["x"] * 5,
    )
    scores = np.array([[1, 9, 5], [9, 1, 5], [9, 1, 5], [1, 9, 5], [9, 8, 7]], dtype=np.float32)
    rows = retrieval_rows({"contrastive": (scores, scores.T), "reranked": (scores, scores.T)}, **given)
    assert ranks(rows, "same_report", "contrastive", "image_to_report") == [1, 1, 1, 1, 3]
    assert [row["first_contrastive"] for row in rows] == ["b", "a", "a", "b", "a"]
    assert relevant(rows, "same_report", "image_to_report") == [2, 2, 2, 2, 1]
    assert relevant(rows, "same_report", "report_to_image") == [3, 3, 3, 3, 1]


def test_same_findings_are_told_apart_from_the_same_report() -> None:
    rows = retrieval_rows(BY_METHOD, **queries(labels=[(0.0,), (1.0,), (1.0,), (0.0,)]))
    assert ranks(rows, "same_report", "contrastive", "image_to_report") == [1, 2, 1, 3]
    assert ranks(rows, "same_findings", "contrastive", "image_to_report") == [1, 1, 1, 1]
    assert relevant(rows, "same_findings", "image_to_report") == [3, 3, 2, 2]
    assert relevant(rows, "same_findings", "report_to_image") == [3, 3, 3, 3]
    metrics = retrieval_metrics(rows)
    assert metrics["same_findings"]["contrastive"]["image_to_report"]["r1"] == 1.0
    assert metrics["contrastive"]["image_to_report"]["r1"] == 0.5
    assert metrics["chance"]["image_to_report"]["r1"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert metrics["chance"]["report_to_image"]["r1"] == 0.5
    assert metrics["reranked"]["report_to_image"]["r1"] == 1.0
    assert metrics["agg_metrics"] == 1.0
    assert metrics["n"] == 4
    # Of the texts with the same findings two of three, or one of two, are right; of the images two of three.
    assert metrics["findings_known"]["image_to_report"]["r1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert metrics["findings_known"]["report_to_image"]["r1"] == pytest.approx(2 / 3)
    lines = metrics_table(metrics).splitlines()
    assert "{" not in metrics_table(metrics)
    assert lines[lines.index("  same_findings") + 1].split() == ["chance", "r1", "r5", "r10"]
