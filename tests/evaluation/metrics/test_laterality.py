from __future__ import annotations

import math

import pytest

from xraygpt.evaluation.metrics.clinical import LATERALITY_F1, SIDES, side_confusion, sided_findings


def test_pairs_of_class_and_side() -> None:
    assert sided_findings(
        "Bilateral effusions, cardiomegaly. No left pneumothorax. Possible right edema."
    ) == {
        ("Pleural Effusion", "left"),
        ("Pleural Effusion", "right"),
        ("Cardiomegaly", ""),
    }
    assert sided_findings("Effusion. It is a left effusion.") == {("Pleural Effusion", "left")}
    assert sided_findings("The lungs are clear.") == frozenset()


@pytest.mark.parametrize(
    ("generated", "expected"),
    [
        ("Left pleural effusion.", 1.0),
        ("Right pleural effusion.", 0.0),
        ("Pleural effusion.", 0.0),
        ("Bilateral pleural effusions.", 2 / 3),
        ("Left pleural effusion. Right pneumothorax.", 2 / 3),
        ("", 0.0),
    ],
)
def test_f1(generated: str, expected: float) -> None:
    assert LATERALITY_F1(["Left pleural effusion."], [generated]) == pytest.approx(expected)


def test_nothing_to_find_is_not_defined_and_adds_nothing() -> None:
    assert math.isnan(LATERALITY_F1(["The lungs are clear."], ["No effusion."]))
    pair = LATERALITY_F1(["The lungs are clear.", "Left effusion."], ["No effusion.", "Left effusion."])
    assert pair == 1.0


def test_confusion_of_sides() -> None:
    references = [
        "Left effusion. Right nodule.",
        "Bilateral effusions.",
        "Effusion. Cardiomegaly.",
        "Left nodule.",
    ]
    generated = ["Right effusion. Right nodule.", "Left effusion.", "Left effusion. Cardiomegaly.", "Clear."]
    table = side_confusion(references, generated)
    assert tuple(table) == SIDES
    assert all(tuple(row) == SIDES for row in table.values())
    cells = {(row, column): n for row in SIDES for column, n in table[row].items() if n}
    assert cells == {
        ("left", "right"): 1,
        ("right", "right"): 1,
        ("bilateral", "left"): 1,
        ("unspecified", "left"): 1,
    }
