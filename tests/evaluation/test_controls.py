from __future__ import annotations

import itertools
import math

import pytest

from xraygpt.evaluation.controls import blind_bounds, blind_f1, blind_macro_f1, blind_report, shuffled
from xraygpt.evaluation.metrics.clinical import LATERALITY_F1, RULE_F1

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


def test_best_constant_set() -> None:
    truths = [{"a", "b"}, {"a"}, {"a"}, {"c"}]
    assert blind_f1(truths) == pytest.approx(6 / 9)  # {"a"}: 3 hits, 1 false alarm, 2 misses
    assert math.isnan(blind_f1([set(), set()]))
    assert blind_f1([set(), set()], nothing=1.0) == 1.0
    assert blind_macro_f1(truths, ["a", "b", "d"]) == pytest.approx((6 / 7 + 2 / 5 + 0) / 3)


def test_no_constant_report_passes_the_bounds() -> None:
    bounds = blind_bounds(REFERENCES)
    findings = ("Cardiomegaly.", "Left effusion.", "Bilateral effusions.", "Edema.", "Atelectasis.")
    constants = [" ".join(words) for n in range(6) for words in itertools.combinations(findings, n)]
    for metric in (*RULE_F1, LATERALITY_F1):
        best = max(metric(REFERENCES, [text] * 5) for text in [*constants, "The lungs are clear."])
        assert 0 < best <= bounds[metric.name] + 1e-12


def test_no_bound_where_there_is_nothing_to_find() -> None:
    bounds = blind_bounds(["The lungs are clear."] * 2)
    assert bounds["phantom_f1"] == bounds["phantom_f1_detailed"] == bounds["rule_f1_micro_14"] == 1.0
    for name in ("laterality_f1", "rule_f1_micro_5", "rule_f1_macro_5"):
        assert math.isnan(bounds[name])


def test_bounds_by_hand() -> None:
    bounds = blind_bounds(REFERENCES)
    # No Finding 3, Pleural Effusion 2, Cardiomegaly 1, of 5 reports: the first two are named.
    assert bounds["rule_f1_micro_14"] == pytest.approx(2 * 5 / (2 * 5 + 6))
    assert bounds["rule_f1_micro_5"] == pytest.approx(2 * 2 / (5 + 3))
    assert bounds["rule_f1_macro_5"] == pytest.approx((4 / 7 + 2 / 6) / 5)
    assert bounds["rule_f1_macro_5_uncertain"] == pytest.approx((4 / 7 + 2 / 6 + 2 / 6) / 5)
    assert bounds["laterality_f1"] == pytest.approx(2 * 3 / (3 * 5 + 3))
