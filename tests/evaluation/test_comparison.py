from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation.runs import ABSENT, LENGTH, SAME, prediction, run
from xraygpt.common.errors import DataError
from xraygpt.evaluation.comparison import Comparison, compare_predictions
from xraygpt.evaluation.metrics.metric import Metric
from xraygpt.evaluation.predictions import Prediction, run_names
from xraygpt.evaluation.results import comparison_lines, comparison_tables, latex, p_text
from xraygpt.evaluation.statistics import plain


def compared(
    *runs: Sequence[Prediction], metrics: Sequence[Metric] = (SAME,), rounds: int = 1000
) -> Comparison:
    named = {f"run {number}": rows for number, rows in enumerate(runs)}
    return compare_predictions(named, metrics, seed=0, rounds=rounds)


def test_difference_of_two_runs() -> None:
    worse, better = run(120, wrong_every=2), run(120, wrong_every=8)
    comparison = compared(worse, better[::-1])
    (row,), scores = comparison.differences["same"], comparison.scores["same"]
    assert ([score.value for score in scores], row.difference.value) == ([0.5, 0.875], 0.375)
    assert 0.28 < row.difference.low < 0.375 < row.difference.high < 0.47
    assert row.p == row.p_holm == 1 / 1001
    # 45 of 120 reports differ, each by 1.
    assert row.detectable == pytest.approx(2.8016 * math.sqrt(0.375 * 0.625 / 120), rel=0.1)
    (back,) = compared(better, worse).differences["same"]
    assert back.difference.value == -0.375
    assert back.difference.low == -row.difference.high
    assert back.p == row.p


def test_a_run_against_itself() -> None:
    comparison = compared(run(20, 3), run(20, 3), metrics=[SAME, LENGTH], rounds=50)
    assert comparison.same_texts == (20,)
    for (row,) in comparison.differences.values():
        assert (row.p, row.p_holm, row.difference.value) == (1, 1, 0)
        assert math.isnan(row.detectable)
    assert comparison.most_different == {"same": [], "length": []}


def test_several_runs_are_compared_with_the_first_and_corrected_together() -> None:
    described = replace(SAME, name="described", descriptive=True)
    runs = [run(60, every) for every in (2, 8, 3)]
    comparison = compared(*runs, metrics=[SAME, LENGTH, described])
    for number, other in enumerate(runs[1:]):
        alone = compared(runs[0], other).differences["same"][0]
        assert replace(alone, p_holm=0) == replace(comparison.differences["same"][number], p_holm=0)
    assert comparison.tests == 4  # two metrics, two further runs
    first, second = comparison.differences["same"]
    assert first.p_holm == pytest.approx(4 * first.p)
    assert first.p < second.p < second.p_holm < 4 * second.p
    assert all(math.isnan(row.p_holm) and row.p < 1 for row in comparison.differences["described"])
    assert len(comparison.scores["same"]) == 3
    assert comparison.same_texts == tuple(
        sum(a.generated == b.generated for a, b in zip(runs[0], other, strict=True)) for other in runs[1:]
    )
    effusion = comparison.findings["Pleural Effusion"]
    assert [row and row.cases for row in effusion] == [15, 15, 15]
    assert plain(effusion[0])["f1"]["value"] < plain(effusion[1])["f1"]["value"]


def test_a_finding_that_one_run_alone_names() -> None:
    rows = run(8, 100)
    invents = [replace(row, generated=row.generated + " Rib fracture.") for row in rows]
    none, some = compared(rows, invents, rounds=10).findings["Fracture"]
    assert none is None
    assert (plain(some)["cases"], plain(some)["invented"]) == (0, 8)


def test_patients_are_drawn_where_all_are_known() -> None:
    a, b = ([replace(row, patient_id=f"p{i // 6}") for i, row in enumerate(run(60, n))] for n in (2, 4))
    by_patient, by_study = compared(a, b), compared(run(60, 2), run(60, 4))
    assert (by_patient.unit, by_study.unit) == ("patient", "study")
    width, narrower = (x.differences["same"][0].difference for x in (by_study, by_patient))
    assert narrower.value == width.value
    assert narrower.high - narrower.low < 0.7 * (width.high - width.low)  # all patients are alike here
    text = "\n".join(comparison_lines(by_patient))
    assert "\n60 reports of 60 studies of 10 patients\n" in text
    assert "note: intervals draw patients with replacement (only 10 patients: " in text
    # Any run may name them, and none may contradict another.
    for runs in ((run(60, 2), b), (a, run(60, 4))):
        assert compared(*runs).differences == by_patient.differences
    with pytest.raises(DataError, match="1 image has another patient: image 000"):
        compared(run(60, 2), b, [replace(a[0], patient_id="x"), *a[1:]])


def test_nothing_is_tested_on_a_single_patient() -> None:
    a, b = ([replace(row, patient_id="p") for row in run(6, n)] for n in (2, 4))
    comparison = compared(a, b, rounds=5)
    (row,) = comparison.differences["same"]
    assert all(map(math.isnan, (row.p, row.p_holm, row.detectable, row.difference.low)))
    assert comparison.tests == 0
    text = "\n".join(comparison_lines(comparison))
    assert re.search(r"\nsame text .*  -  -  -  -$".replace("  ", " +"), text, re.M)
    assert "patients with replacement (only 1 patient: no interval and no test)" in text
    assert "Holm): " not in text


def test_reports_that_differ_most() -> None:
    a = run(4, wrong_every=100)
    b = [replace(row, generated=row.generated + "x" * i) for i, row in enumerate(a)]
    c = [replace(row, generated=row.generated + "x" * 9 * (i == 1)) for i, row in enumerate(a)]
    most = compared(a, b, c, metrics=[LENGTH], rounds=10).most_different["length"]
    assert [row.image_id for row in most] == ["image 001", "image 003", "image 002"]
    assert [value - most[0].values[0] for value in most[0].values] == [0, 1, 9]
    # Ties, here of all in `same`, are in the order of the wording.
    findings = replace(SAME, heading="Findings")
    tied = compared(a, b, metrics=[findings, LENGTH], rounds=10).most_different["same"]
    assert [row.image_id for row in tied] == ["image 003", "image 002", "image 001"]


def test_runs_on_other_images_are_refused() -> None:
    rows = run(10, 3)
    with pytest.raises(DataError) as caught:
        compared(rows[:8], rows[1:])
    assert str(caught.value).startswith("run 0 and run 1 cannot be compared")
    assert "\n  1 image of run 0 is not in run 1: image 000\n" in str(caught.value)
    assert str(caught.value).endswith("2 images of run 1 are not in run 0: image 008, image 009")
    with pytest.raises(DataError, match="10 images .*image 004, ..."):
        compared(rows, [replace(row, reference="Other.") for row in rows])
    with pytest.raises(DataError, match="1 image has another study: image 003"):
        compared(rows, [*rows[:3], replace(rows[3], study_id="s"), *rows[4:]])


def test_plain_values_and_table() -> None:
    comparison = compared(run(12, 2), run(12, 3), metrics=[SAME, ABSENT], rounds=20)
    content = json.loads(json.dumps(plain(comparison), allow_nan=False))
    (row,) = comparison.differences["same"]
    assert content["differences"]["same"][0]["p"] == pytest.approx(row.p, abs=1e-6)
    assert content["not_computed"] == {"absent": "needs Java, which is not there"}
    text = "\n".join(comparison_lines(comparison))
    assert "A: run 0\nB: run 1" in text
    assert "same text  0.500  0.667  +0.167" in text
    assert "absent: needs Java" in text
    assert "reports that differ most by same text" in text


def test_the_table_says_which_way_is_better_and_how_small_p_can_be() -> None:
    described = replace(SAME, name="described", title="so it is", equals="a share", descriptive=True)
    comparison = compared(run(120, 2), run(120, 8), metrics=[SAME, LENGTH, described])
    text = "\n".join(comparison_lines(comparison))
    (same,) = [line for line in text.splitlines() if line.startswith("same text ")]
    assert re.search(r" 0\.0010  +0\.0020  +0\.1\d\d$", same)
    assert "\nlength (lower is better) " in text
    assert "\nso it is" not in text
    assert "with 1,000 rounds at least 0.001\n" in text
    assert "corrected for the 2 tests of this comparison\n" in text
    one = [prediction(1, "Clear.", "Clear.")]
    assert comparison_lines(compared(one, one, rounds=5))[2] == "1 report of 1 study"
    few_rounds = "\n".join(comparison_lines(compared(run(8, 2), run(8, 3), rounds=5)))
    assert "so few rounds: none can fall below 0.05" in few_rounds
    assert (p_text(1 / 10_001), p_text(1 / 1_000_001)) == ("0.0001", "1e-06")


def test_tables_for_csv_and_latex() -> None:
    named = {"50 %": run(12, 2), "b_c": run(12, 3), "d": run(12, 2)}
    metrics = [SAME, replace(LENGTH, title="words & more")]
    tables = comparison_tables(compare_predictions(named, metrics, seed=0, rounds=20))
    assert [table.rows[0]["run"] for table in tables] == ["b_c", "d"]
    row = tables[0].rows[0]
    assert {key: row[key] for key in ("run", "first", "value", "difference", "p_holm")} == {
        "run": "b_c",
        "first": 0.5,
        "value": pytest.approx(2 / 3),
        "difference": pytest.approx(1 / 6),
        "p_holm": 1.0,
    }
    assert row["difference_low"] < row["difference"] < row["difference_high"]
    lines = latex(tables).splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrrrr}"
    assert lines[2] == r"\multicolumn{8}{l}{B: b\_c, against A: 50 \%} \\"
    assert lines[3] == r"metric & A & B & B - A & 95 \% interval & p & p (Holm) & detectable \\"
    assert lines[5].startswith("same text & 0.500 & 0.667 & $+$0.167 & $")
    assert lines[6].startswith(r"words \& more (lower is better) & ")
    assert sum(line == r"\midrule" for line in lines) == 3


def test_names_of_runs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "out").mkdir(parents=True)
    a, b = tmp_path / "a", tmp_path / "b"
    assert run_names([a, b]) == ["a", "b"]
    assert run_names([a, b / "first.jsonl"]) == ["a", "first"]
    assert run_names([a / "out", b / "out"]) == ["a/out", "b/out"]
    assert run_names([a / "p.jsonl", b / "p.csv"]) == ["a/p", "b/p"]
    assert run_names([a, a]) == ["a (1)", "a (2)"]
