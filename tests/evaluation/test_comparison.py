from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.evaluation.runs import ABSENT, LENGTH, SAME, prediction, run
from xraygpt.common.errors import DataError
from xraygpt.evaluation.comparison import compare_predictions
from xraygpt.evaluation.results import comparison_lines
from xraygpt.evaluation.statistics import plain


def test_difference_of_two_runs() -> None:
    worse, better = run(120, wrong_every=2), run(120, wrong_every=8)
    row = compare_predictions(worse, better[::-1], [SAME], seed=0).differences["same"]
    assert (row.a.value, row.b.value, row.difference.value) == (0.5, 0.875, 0.375)
    assert 0.28 < row.difference.low < 0.375 < row.difference.high < 0.47
    assert row.p == 1 / 1001
    back = compare_predictions(better, worse, [SAME], seed=0).differences["same"]
    assert back.difference.value == -0.375
    assert back.difference.low == -row.difference.high
    assert back.p == row.p


def test_a_run_against_itself() -> None:
    comparison = compare_predictions(run(20, 3), run(20, 3), [SAME, LENGTH], seed=0, rounds=50)
    assert comparison.same_texts == 20
    assert all(row.p == 1 and row.difference.value == 0 for row in comparison.differences.values())
    assert comparison.most_different == {"same": [], "length": []}


def test_reports_that_differ_most() -> None:
    a = run(3, wrong_every=100)
    b = [replace(row, generated=row.generated + "x" * i) for i, row in enumerate(a)]
    most = compare_predictions(a, b, [LENGTH], seed=0, rounds=10).most_different["length"]
    assert [row.image_id for row in most] == ["image 002", "image 001"]
    assert most[0].b - most[0].a == 2


def test_runs_on_other_images_are_refused() -> None:
    rows = run(10, 3)
    with pytest.raises(DataError) as caught:
        compare_predictions(rows[:8], rows[1:], [SAME], seed=0)
    assert "\n  1 image of the first is not in the second: image 000\n" in str(caught.value)
    assert str(caught.value).endswith("2 images of the second are not in the first: image 008, image 009")
    with pytest.raises(DataError, match="10 images .*image 004, ..."):
        compare_predictions(rows, [replace(row, reference="Other.") for row in rows], [SAME], seed=0)
    with pytest.raises(DataError, match="1 image has another study: image 003"):
        compare_predictions(rows, [*rows[:3], replace(rows[3], study_id="s"), *rows[4:]], [SAME], seed=0)


def test_plain_values_and_table() -> None:
    comparison = compare_predictions(run(12, 2), run(12, 3), [SAME, ABSENT], seed=0, rounds=20)
    content = json.loads(json.dumps(plain(comparison), allow_nan=False))
    assert content["differences"]["same"]["p"] == pytest.approx(comparison.differences["same"].p, abs=1e-6)
    assert content["not_computed"] == {"absent": "needs Java, which is not there"}
    text = "\n".join(comparison_lines(comparison, a="first.csv", b="second.csv"))
    assert "A: first.csv" in text
    assert "same text  0.500  0.667  +0.167" in text
    assert "absent: needs Java" in text
    assert "reports that differ most by same text" in text


def test_the_table_says_which_way_is_better_and_how_small_p_can_be() -> None:
    described = replace(SAME, name="described", title="so it is", equals="a share", descriptive=True)
    metrics = [SAME, LENGTH, described]
    comparison = compare_predictions(run(120, 2), run(120, 8), metrics, seed=0)
    text = "\n".join(comparison_lines(comparison, a="a", b="b"))
    (same,) = [line for line in text.splitlines() if line.startswith("same text ")]
    assert same.endswith("\N{LESS-THAN OR EQUAL TO} 0.001")
    assert "\nlength (lower is better) " in text
    assert "\nso it is" not in text
    one = [prediction(1, "Clear.", "Clear.")]
    lines = comparison_lines(compare_predictions(one, one, [SAME], seed=0, rounds=5), a="a", b="b")
    assert lines[2].startswith("1 report of 1 study, ")
