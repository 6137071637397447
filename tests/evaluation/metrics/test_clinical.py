from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from xraygpt.evaluation.labeller import CLASSES
from xraygpt.evaluation.metrics.clinical import (
    FIVE_CLASSES,
    RULE_F1,
    class_counts,
    present_classes,
)
from xraygpt.evaluation.metrics.metric import Metric

BY_NAME = {metric.name: metric for metric in RULE_F1}
REFERENCES = [
    "Cardiomegaly. Small left pleural effusion. No pneumothorax.",
    "The lungs are clear.",
    "Possible edema. There is atelectasis.",
    "Right pleural effusion.",
]
HYPOTHESES = [
    "Cardiomegaly. No pleural effusion.",
    "The lungs are clear.",
    "Pulmonary edema. Possible atelectasis.",
    "Left pleural effusion and edema.",
]
# Positive only: cardiomegaly 1/0/0, effusion 1/0/1, edema 0/2/0, atelectasis 0/0/1, no finding 1/0/0.
# With uncertainty: edema 1/1/0, atelectasis 1/0/0.


def score(name: str) -> float:
    return BY_NAME[name](REFERENCES, HYPOTHESES)


def test_names() -> None:
    averages = ("micro_14", "macro_14", "micro_5", "macro_5", "example_14")
    assert set(BY_NAME) == {f"rule_f1_{a}{suffix}" for a in averages for suffix in ("", "_uncertain")}
    assert all(metric.title.startswith("rule-F1") for metric in RULE_F1)
    assert not any("chexbert" in f"{m.name} {m.title} {m.equals}".lower() for m in RULE_F1)


def test_micro_by_hand() -> None:
    assert score("rule_f1_micro_14") == pytest.approx(2 * 3 / (2 * 3 + 2 + 2))
    assert score("rule_f1_micro_5") == pytest.approx(2 * 2 / (2 * 2 + 2 + 2))
    assert score("rule_f1_micro_14_uncertain") == pytest.approx(2 * 5 / (2 * 5 + 1 + 1))
    assert score("rule_f1_micro_5_uncertain") == pytest.approx(2 * 4 / (2 * 4 + 1 + 1))


def test_each_report_counts_alike_in_the_mean_over_reports() -> None:
    each = [2 * 1 / (1 + 2), 1, 0, 2 * 1 / (1 + 2)]
    assert score("rule_f1_example_14") == pytest.approx(sum(each) / 4)
    metric = BY_NAME["rule_f1_example_14"]
    assert metric.score(metric.statistics(REFERENCES, HYPOTHESES)) == pytest.approx(each)
    assert metric(["", "Cardiomegaly."], ["", "Cardiomegaly."]) == 0.5  # as zero_division=0


def test_macro_by_hand_counts_empty_classes_as_zero() -> None:
    effusion = 2 / 3
    assert score("rule_f1_macro_14") == pytest.approx((1 + effusion + 1) / 14)
    assert score("rule_f1_macro_5") == pytest.approx((1 + effusion) / 5)
    assert score("rule_f1_macro_5_uncertain") == pytest.approx((1 + effusion + 2 / 3 + 1) / 5)


def test_equals_scikit_learn() -> None:
    for metric in RULE_F1:
        _, _, average, count, *uncertain = metric.name.split("_")
        columns = [CLASSES.index(name) for name in (CLASSES if count == "14" else FIVE_CLASSES)]
        truth, found = (
            present_classes(texts, uncertain=bool(uncertain))[:, columns]
            for texts in (REFERENCES, HYPOTHESES)
        )
        average = "samples" if average == "example" else average
        expected = f1_score(truth, found, average=average, zero_division=0)
        assert metric(REFERENCES, HYPOTHESES) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", RULE_F1, ids=lambda metric: metric.name)
def test_the_same_report_is_perfect_and_nothing_at_all_undefined(metric: Metric) -> None:
    text = "Cardiomegaly, edema, consolidation, atelectasis and pleural effusion."
    if "micro" in metric.name:
        assert metric([text], [text]) == 1.0
    of_nothing = metric(["", ""], ["", ""])
    assert of_nothing == 0 if "example" in metric.name else math.isnan(of_nothing)
    assert metric([text], [""]) == 0.0


def test_a_score_of_many_sums_at_once() -> None:
    metric = BY_NAME["rule_f1_macro_14"]
    rows = metric.statistics(REFERENCES, HYPOTHESES)
    both = metric.score(np.stack([rows.sum(axis=0), rows[:2].sum(axis=0)]))
    assert both.shape == (2,)
    assert both[1] == pytest.approx(metric(REFERENCES[:2], HYPOTHESES[:2]))


def test_counts_of_reports() -> None:
    counts = class_counts(REFERENCES, HYPOTHESES)
    assert counts.shape == (4, 14, 3)
    assert counts[:, CLASSES.index("Pleural Effusion")].sum(axis=0).tolist() == [1, 0, 1]
    assert not counts[:, CLASSES.index("Fracture")].any()


def test_uncertain_mentions_are_absent_unless_asked_for() -> None:
    edema = CLASSES.index("Edema")
    assert present_classes(["Possible edema.", "No edema.", "Edema."])[:, edema].tolist() == [
        False,
        False,
        True,
    ]
    assert present_classes(["Possible edema.", "No edema."], uncertain=True)[:, edema].tolist() == [
        True,
        False,
    ]


def test_no_reports() -> None:
    assert class_counts([], []).shape == (0, 14, 3)
