"""The scores that no constant report passes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest

from xraygpt.evaluation.metrics.catalogue import OFFLINE
from xraygpt.evaluation.metrics.clinical import LATERALITY_F1, RULE_F1
from xraygpt.evaluation.metrics.metric import blind_macro_f1, blind_micro_f1
from xraygpt.evaluation.metrics.phantom import PHANTOM

REFERENCES = [
    "The lungs are clear.",
    "No acute disease.",
    "No acute disease.",
    "Left effusion. Cardiomegaly.",
    "Right effusion. Possible edema.",
]


def bounds_on(references: Sequence[str]) -> dict[str, float]:
    return {m.name: m.blind_bound(references) for m in (*PHANTOM, *OFFLINE) if m.blind_bound is not None}


def test_best_constant_set() -> None:
    cases = {"a": 3, "b": 1, "c": 1}  # of 4 reports
    assert blind_micro_f1(cases.values(), 4) == pytest.approx(6 / 9)  # {"a"}: 3 hits, 1 false alarm, 2 misses
    assert math.isnan(blind_micro_f1([], 2))
    assert blind_micro_f1([0, 0], 2, of_nothing=1.0) == 1.0
    assert blind_macro_f1([3, 1, 0], 4) == pytest.approx((6 / 7 + 2 / 5 + 0) / 3)


def test_no_constant_report_passes_the_bounds() -> None:
    bounds = bounds_on(REFERENCES)
    findings = ("Cardiomegaly.", "Left effusion.", "Bilateral effusions.", "Edema.", "Atelectasis.")
    constants = [" ".join(words) for n in range(6) for words in itertools.combinations(findings, n)]
    for metric in (metric for metric in (*RULE_F1, LATERALITY_F1) if metric.blind_bound):
        best = max(metric(REFERENCES, [text] * 5) for text in [*constants, "The lungs are clear."])
        assert 0 < best <= bounds[metric.name] + 1e-12


def test_no_bound_where_there_is_nothing_to_find() -> None:
    bounds = bounds_on(["The lungs are clear."] * 2)
    assert bounds["phantom_f1"] == bounds["phantom_f1_detailed"] == bounds["rule_f1_micro_14"] == 1.0
    for name in ("laterality_f1", "rule_f1_micro_5", "rule_f1_macro_5"):
        assert math.isnan(bounds[name])


def test_bounds_by_hand() -> None:
    bounds = bounds_on(REFERENCES)
    # No Finding 3, Pleural Effusion 2, Cardiomegaly 1, of 5 reports: the first two are named.
    assert bounds["rule_f1_micro_14"] == pytest.approx(2 * 5 / (2 * 5 + 6))
    assert bounds["rule_f1_micro_5"] == pytest.approx(2 * 2 / (5 + 3))
    assert bounds["rule_f1_macro_5"] == pytest.approx((4 / 7 + 2 / 6) / 5)
    assert bounds["rule_f1_macro_5_uncertain"] == pytest.approx((4 / 7 + 2 / 6 + 2 / 6) / 5)
    assert bounds["laterality_f1"] == pytest.approx(2 * 3 / (3 * 5 + 3))
