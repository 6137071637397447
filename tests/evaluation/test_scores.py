from __future__ import annotations

import random

import pytest

from xraygpt.datasets.phantom.report import write_report
from xraygpt.datasets.phantom.truth import draw_truth
from xraygpt.evaluation.scores import (
    blind_f1,
    bootstrap_interval,
    count_matches,
    f1_of,
    micro_f1,
    per_finding,
    score_reports,
)


def reports(count: int, seed: int, error_rate: float = 0.0) -> tuple[list[str], list[str]]:
    """Phantom reports, and the same findings in other words, some of them another phantom's."""
    rng = random.Random(seed)
    truths = [draw_truth(rng) for _ in range(count)]
    read = [draw_truth(rng) if rng.random() < error_rate else truth for truth in truths]
    return [write_report(t, rng) for t in truths], [write_report(t, rng) for t in read]


def test_f1_by_hand() -> None:
    assert count_matches({"a", "b"}, {"b", "c"}) == (1, 1, 1)
    assert micro_f1([{"a", "b"}, {"c"}, set()], [{"a"}, {"d"}, set()]) == pytest.approx(2 / (2 + 1 + 2))
    assert micro_f1([set()], [set()]) == 1.0
    assert micro_f1([{"a"}], [set()]) == 0.0


def test_perfect_reader() -> None:
    scores = score_reports(*reports(300, seed=1), seed=0)
    assert scores["n"] == 300
    assert scores["f1"] == scores["f1_detailed"] == scores["exact"] == 1.0
    assert scores["f1_low"] == scores["f1_high"] == 1.0
    assert all(
        row["f1"] == 1 and not row["missed"] + row["false_alarms"] for row in scores["findings"].values()
    )


def test_shuffling_images_destroys_the_score() -> None:
    scores = score_reports(*reports(300, seed=2), seed=0)
    assert scores["f1_shuffled"] < 0.25
    same = ["There is cardiomegaly."] * 10
    assert score_reports(same, same, seed=0)["f1_shuffled"] == 1.0


def test_no_report_keeps_its_own_image_when_shuffled() -> None:
    names = ["cardiomegaly", "edema", "hyperinflation", "a pacemaker", "a central line"]
    texts = [f"There is {name}." for name in names]
    assert all(score_reports(texts, texts, seed=seed)["f1_shuffled"] == 0.0 for seed in range(20))


def test_blind_reader_is_the_best_constant_report() -> None:
    truths = [{"a", "b"}, {"a"}, {"a"}, {"c"}]
    assert blind_f1(truths) == pytest.approx(6 / 9)  # {"a"}: 3 hits, 1 false alarm, 2 misses
    assert blind_f1([set(), set()]) == 1.0
    references, hypotheses = reports(300, seed=3, error_rate=1.0)
    assert score_reports(references, hypotheses, seed=0)["f1"] < blind_f1([{"x"}, {"x"}, {"y"}])


def test_interval_holds_the_score_and_narrows_with_more_reports() -> None:
    few, many = (score_reports(*reports(n, seed=4, error_rate=0.3), seed=0) for n in (50, 800))
    for scores in (few, many):
        assert scores["f1_low"] < scores["f1"] < scores["f1_high"]
    width = {scores["n"]: scores["f1_high"] - scores["f1_low"] for scores in (few, many)}
    assert 2 < width[50] / width[800] < 8  # the square root of 16 is 4


def test_interval_of_a_proportion() -> None:
    counts = [(1, 0, 0)] * 80 + [(0, 1, 1)] * 20  # F1 is the share of hits here: 0.8, standard error 0.04
    low, high = bootstrap_interval(counts, seed=0)
    assert f1_of(counts) == pytest.approx(0.8)
    assert (low, high) == (pytest.approx(0.72, abs=0.02), pytest.approx(0.88, abs=0.02))
    assert bootstrap_interval(counts, seed=0) == (low, high)


def test_table_of_findings() -> None:
    table = per_finding([{"a", "b"}, {"a"}, set()], [{"a"}, {"c"}, {"c"}])
    assert table["a"] == {"f1": pytest.approx(2 / 3), "cases": 2, "missed": 1, "false_alarms": 0}
    assert table["b"] == {"f1": 0, "cases": 1, "missed": 1, "false_alarms": 0}
    assert table["c"] == {"f1": 0, "cases": 0, "missed": 0, "false_alarms": 2}


def test_facts_about_the_texts() -> None:
    scores = score_reports(
        ["no nodule here", "cardiomegaly"], ["all is well today", "all is well today"], seed=0
    )
    assert scores["without_findings"] == 1
    assert (scores["words_reference"], scores["words_generated"]) == (2, 4)
    assert scores["distinct_generated"] == 1


def test_lists_must_fit() -> None:
    with pytest.raises(ValueError, match="1 references and 2 generated"):
        score_reports(["a"], ["b", "c"], seed=0)
    with pytest.raises(ValueError, match="0 references"):
        score_reports([], [], seed=0)
