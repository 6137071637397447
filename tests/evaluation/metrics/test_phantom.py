"""Scores of phantom reports, against counts by hand and against the truth that they were written from."""

from __future__ import annotations

import random

import pytest

from xraygpt.datasets.phantom.report import write_report
from xraygpt.datasets.phantom.truth import draw_truth
from xraygpt.evaluation.metrics.phantom import PHANTOM

BY_NAME = {metric.name: metric for metric in PHANTOM}


def test_counts_by_hand() -> None:
    references = ["There is a small left pneumothorax. There is cardiomegaly.", "The lungs are clear."]
    generated = ["There is a large left pneumothorax.", "There is a small right pleural effusion."]
    scores = {name: metric(references, generated) for name, metric in BY_NAME.items()}
    assert scores["phantom_f1"] == pytest.approx(2 / 4)  # one hit, one invented, one missed
    assert scores["phantom_f1_detailed"] == 0
    assert scores["phantom_exact"] == 0


def test_reads_the_truth_that_reports_were_written_from() -> None:
    rng = random.Random(5)
    truths = [draw_truth(rng) for _ in range(60)]
    first, second = ([write_report(truth, rng) for truth in truths] for _ in range(2))
    assert [metric(first, second) for metric in PHANTOM] == [1.0, 1.0, 1.0]
    others = second[1:] + second[:1]
    assert 0 < BY_NAME["phantom_f1"](first, others) < 0.6


def test_nothing_found_where_nothing_is() -> None:
    assert [metric(["Clear lungs."], ["No nodule."]) for metric in PHANTOM] == [1.0, 1.0, 1.0]
    assert [metric(["There is a nodule."], ["No nodule."]) for metric in PHANTOM] == [0.0, 0.0, 0.0]
