from __future__ import annotations

import itertools
import random

import pytest

from xraygpt.datasets.phantom.truth import Finding, all_findings, compatible, draw_truth

TRUTHS = [draw_truth(random.Random(index)) for index in range(4000)]


def finding(text: str) -> Finding:
    return {f.phrase: f for f in all_findings()}[text]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("pulmonary edema", "hyperinflation", False),
        ("pulmonary edema", "left mid zone nodule", False),
        ("pulmonary edema", "right upper zone consolidation", False),
        ("pulmonary edema", "cardiomegaly", True),
        ("cardiomegaly", "left lower zone nodule", False),
        ("cardiomegaly", "right lower zone nodule", True),
        ("small left pneumothorax", "left upper zone nodule", False),
        ("small left pneumothorax", "small left pleural effusion", False),
        ("small left pneumothorax", "small right pleural effusion", True),
        ("large left pleural effusion", "left mid zone nodule", False),
        ("moderate left pleural effusion", "left mid zone nodule", True),
        ("moderate left pleural effusion", "left lower zone nodule", False),
        ("small left pleural effusion", "left lower zone nodule", True),
        ("left mid zone consolidation", "left mid zone nodule", False),
        ("left mid zone consolidation", "right mid zone nodule", True),
        ("left mid zone nodule", "right mid zone nodule", False),
        ("pacemaker", "sternotomy wires", True),
    ],
)
def test_what_one_film_can_show(one: str, other: str, expected: bool) -> None:
    assert compatible(finding(one), finding(other)) is expected
    assert compatible(finding(other), finding(one)) is expected


def test_drawn_findings_go_together() -> None:
    for truth in TRUTHS:
        for one, other in itertools.combinations(truth, 2):
            bilateral = one.name == other.name == "pleural effusion" and one.side != other.side
            assert bilateral or compatible(one, other), truth


def test_everything_is_drawn_and_some_chests_are_normal() -> None:
    assert {f for truth in TRUTHS for f in truth} == set(all_findings())
    assert 0.12 < sum(not truth for truth in TRUTHS) / len(TRUTHS) < 0.18
    assert {len(truth) for truth in TRUTHS} >= {0, 1, 2, 3, 4}
    assert any(len({f.side for f in t if f.name == "pleural effusion"}) == 2 for t in TRUTHS)


def test_names_of_a_finding() -> None:
    effusion = Finding("pleural effusion", side="left", size="small")
    assert (effusion.label, effusion.phrase) == ("left pleural effusion", "small left pleural effusion")
    assert Finding("cardiomegaly").label == "cardiomegaly"
