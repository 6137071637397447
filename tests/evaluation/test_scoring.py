from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from tests.evaluation.runs import ABSENT, LENGTH, SAME, TEXTS, prediction, run
from xraygpt.common.errors import DataError
from xraygpt.evaluation.metrics.clinical import RULE_F1
from xraygpt.evaluation.scoring import blind_report, name_hash, score_predictions, shuffled
from xraygpt.evaluation.statistics import plain


def test_scores_with_intervals() -> None:
    scores = score_predictions(run(200, wrong_every=4), [SAME, LENGTH], seed=0)
    assert (scores.reports, scores.studies, scores.empty) == (200, 200, 0)
    same = scores.scores["same"]
    assert same.value == 0.75
    assert same.low == pytest.approx(0.69, abs=0.015)
    assert same.high == pytest.approx(0.81, abs=0.015)
    assert list(scores.metrics) == ["same", "length"]


def test_order_of_the_file_does_not_matter() -> None:
    rows = run(40, wrong_every=3, columns=[{"view": "PA"}, {"view": "AP"}])
    mixed = random.Random(0).sample(rows, len(rows))
    first, second = (
        plain(score_predictions(given, [SAME, LENGTH], seed=1, rounds=50, subgroups=["view"]))
        for given in (rows, mixed)
    )
    assert first == second
    assert first != plain(score_predictions(rows, [SAME, LENGTH], seed=2, rounds=50, subgroups=["view"]))


def test_controls() -> None:
    scores = score_predictions(run(80, wrong_every=100), [SAME], seed=0, rounds=10)
    assert scores.scores["same"].value > 0.98
    assert scores.controls["shuffled"]["same"] < 0.5
    assert scores.controls["blind"]["same"] == 0.25
    assert scores.blind_report in TEXTS


def test_findings_have_intervals() -> None:
    rows = [prediction(i, TEXTS[0], TEXTS[0] if i % 4 else TEXTS[2]) for i in range(40)]
    rows += [prediction(40 + i, TEXTS[1], f"{TEXTS[1]} {TEXTS[3]}") for i in range(20)]
    findings = score_predictions(rows, [SAME], seed=0, rounds=200).findings
    effusion = findings["Pleural Effusion"]
    assert (effusion.cases, effusion.missed, effusion.reported, effusion.invented) == (40, 10, 30, 0)
    assert effusion.recall.value == 0.75
    assert effusion.recall.low == pytest.approx(0.75 - 1.96 * 0.068, abs=0.03)
    assert plain(effusion.precision) == {"value": 1.0, "low": 1.0, "high": 1.0}
    invented = plain(findings["Pneumothorax"])
    assert invented["f1"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert invented["recall"] == {"value": None, "low": None, "high": None}
    assert "Edema" not in findings


def test_sides() -> None:
    rows = [prediction(0, TEXTS[0], TEXTS[0]), prediction(1, TEXTS[0], TEXTS[0].replace("left", "right"))]
    sides = score_predictions(rows, [SAME], seed=0, rounds=10).sides
    assert sides["left"]["left"] == sides["left"]["right"] == 1
    assert sum(sum(row.values()) for row in sides.values()) == 2


def test_subgroups() -> None:
    rows = run(60, wrong_every=2, columns=[{"view": "PA"}, {"view": "AP"}, {"view": "PA"}, {"view": ""}])
    groups = score_predictions(rows, [SAME], seed=0, rounds=50, subgroups=["view"]).subgroups["view"]
    assert [(group.value, group.reports) for group in groups] == [("AP", 15), ("PA", 30), ("not known", 15)]
    assert [group.scores["same"].value for group in groups] == [1.0, 0.0, 1.0]
    with pytest.raises(DataError, match="'veiw'; did you mean 'view'"):
        score_predictions(rows, [SAME], seed=0, subgroups=["veiw"])


def test_shuffled_is_not_defined_for_one_study() -> None:
    rows = [prediction(i, text, text, study="one" if i < 3 else "two") for i, text in enumerate(TEXTS)]
    content = plain(score_predictions(rows, [SAME], seed=0, rounds=10))
    assert content["controls"]["shuffled"] == {"same": None}
    assert content["controls"]["blind"] == {"same": 0.25}


def test_worst_reports_come_first_and_ties_by_a_hash() -> None:
    rows = [prediction(i, "abc", text) for i, text in enumerate(["abc", "x", "abcdefgh", "y"])]
    worst = score_predictions(rows, [SAME, LENGTH], seed=0, rounds=10).worst
    tied = sorted((f"image 00{i}" for i in (1, 2, 3)), key=name_hash)
    assert tied != sorted(tied)
    assert worst["same"] == [*tied, "image 000"]
    assert worst["length"] == ["image 002", "image 000", *(name for name in tied if name != "image 002")]


def test_reports_of_a_study_are_drawn_together() -> None:
    alone = run(60, wrong_every=4)
    twice = [
        prediction(2 * i + k, row.reference, row.generated, study=row.study_id)
        for i, row in enumerate(alone)
        for k in (0, 1)
    ]
    scores = score_predictions(twice, [SAME], seed=0)
    assert (scores.reports, scores.studies) == (120, 60)
    assert scores.scores == score_predictions(alone, [SAME], seed=0).scores


def test_patients_are_drawn_where_all_are_known() -> None:
    rows = [replace(row, patient_id=f"p{i // 6}") for i, row in enumerate(run(120, wrong_every=6))]
    by_patient = score_predictions(rows, [SAME], seed=0)
    assert (by_patient.unit, by_patient.units, by_patient.unit_note) == ("patient", 20, "")
    few = score_predictions(rows[:114], [SAME], seed=0, rounds=10)
    assert (few.units, few.unit_note) == (19, "only 19 patients: intervals may be too narrow")
    assert by_patient.scores["same"].low == by_patient.scores["same"].high  # one error in each of them
    findings = plain(by_patient.findings["Pleural Effusion"])
    by_study = score_predictions(run(120, wrong_every=6), [SAME], seed=0)
    assert by_study.unit == "study"
    assert by_study.scores["same"].low < by_study.scores["same"].high
    assert findings["recall"] != plain(by_study.findings["Pleural Effusion"])["recall"]
    some = score_predictions([replace(rows[0], patient_id=""), *rows[1:]], [SAME], seed=0)
    assert some.scores == by_study.scores
    assert (some.unit, some.unit_note) == (
        "study",
        "the patients of 1 report are not known",
    )


def test_spread_over_seeds() -> None:
    a, b = run(8, wrong_every=2), run(8, wrong_every=4)
    scores = score_predictions(a, [SAME], seed=0, rounds=10, other_seeds=[b[::-1], a])
    assert scores.scores == score_predictions(a, [SAME], seed=0, rounds=10).scores
    seeds = plain(scores.seeds)
    assert seeds["scores"]["same"] == pytest.approx(
        {"mean": 1.75 / 3, "standard_deviation": 0.25 / 3**0.5, "lowest": 0.5, "highest": 0.75}, abs=1e-6
    )
    assert (seeds["runs"], seeds["same_texts"]) == (3, pytest.approx((0.75 + 1 + 0.75) / 3, abs=1e-6))
    one = RULE_F1[0]([row.generated for row in a], [row.generated for row in b])
    assert seeds["agreement"] == pytest.approx((2 * one + 1) / 3, abs=1e-6)
    assert one < 1
    with pytest.raises(DataError, match="1 image of the first is not in the second"):
        score_predictions(a, [SAME], seed=0, other_seeds=[b[1:]])


def test_values_of_each_report() -> None:
    rows = run(6, wrong_every=2)
    scores = score_predictions(rows[::-1], [SAME], seed=0, rounds=10)
    assert scores.each["same"].tolist() == [row.generated == row.reference for row in rows]
    assert "each" not in plain(scores)


def test_a_metric_that_is_not_available_is_named_with_the_reason() -> None:
    scores = score_predictions(run(8, wrong_every=4), [ABSENT, SAME], seed=0, rounds=10)
    assert scores.not_computed == {"absent": "needs Java, which is not there"}
    assert list(scores.scores) == ["same"]


def test_one_report_has_scores_without_intervals() -> None:
    scores = score_predictions([prediction(0, TEXTS[0], TEXTS[0])], [SAME, *RULE_F1], seed=0, rounds=10)
    assert plain(scores.scores["rule_f1_micro_14"]) == {"value": 1.0, "low": None, "high": None}
    assert plain(scores.findings["Pleural Effusion"].f1) == {"value": 1.0, "low": None, "high": None}


def test_empty_reports_are_scored() -> None:
    scores = score_predictions([prediction(0, TEXTS[0], ""), prediction(1, TEXTS[1], " ")], [SAME], seed=0)
    assert scores.empty == 2
    assert scores.scores["same"].value == 0
    with pytest.raises(ValueError, match="no predictions"):
        score_predictions([], [SAME], seed=0)


def test_plain_values() -> None:
    scores = score_predictions(
        run(9, 2, [{"view": "PA"}]), [SAME, LENGTH, ABSENT], seed=0, subgroups=["view"]
    )
    content = json.loads(json.dumps(plain(scores), allow_nan=False))
    assert content["scores"]["same"].keys() == {"value", "low", "high"}
    assert content["subgroups"]["view"][0]["value"] == "PA"
    assert content["metrics"]["same"]["title"] == "same text"
    assert (content["metrics"]["same"]["highest"], content["metrics"]["length"]["highest"]) == (1.0, None)
    assert content["seed"] == 0


REFERENCES = [
    "The lungs are clear.",
    "No acute disease.",
    "No acute disease.",
    "Left effusion. Cardiomegaly.",
    "Right effusion. Possible edema.",
]


def test_no_image_keeps_a_report_of_its_study() -> None:
    studies = ["a", "b", "a", "c", "d", "d", "d", "e"]
    reports = [f"{study}{index}" for index, study in enumerate(studies)]
    for seed in range(50):
        moved = shuffled(reports, studies, seed)
        assert moved is not None
        assert sorted(moved) == sorted(reports)
        assert all(report[0] != study for report, study in zip(moved, studies, strict=True))
    assert shuffled(reports, studies, 1) == shuffled(reports, studies, 1)
    assert len({tuple(shuffled(reports, studies, seed) or ()) for seed in range(50)}) > 10


def test_shuffling_few() -> None:
    assert shuffled([], [], 0) == []
    assert shuffled(["x", "y"], ["a", "b"], 0) == ["y", "x"]


@pytest.mark.parametrize("studies", ["a", "aa", "aab", "abaca"])
def test_no_shuffling_where_a_report_would_stay_in_its_study(studies: str) -> None:
    assert shuffled(["x"] * len(studies), list(studies), 0) is None


def test_constant_report_is_the_best_of_the_references() -> None:
    micro = RULE_F1[0]
    best = blind_report(REFERENCES)
    scores = {text: micro(REFERENCES, [text] * len(REFERENCES)) for text in REFERENCES}
    assert scores[best] == max(scores.values())
    assert best == "No acute disease."  # as good as "The lungs are clear.", and more frequent
    assert blind_report(["", ""]) == ""
    with pytest.raises(ValueError, match="no references"):
        blind_report([])
