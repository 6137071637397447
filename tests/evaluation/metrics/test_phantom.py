"""The same numbers as `score_reports`, which the phantoms' runs were scored with before."""

from __future__ import annotations

import random

import pytest

from xraygpt.datasets.phantom.report import write_report
from xraygpt.datasets.phantom.truth import draw_truth
from xraygpt.evaluation.metrics.phantom import PHANTOM
from xraygpt.evaluation.scores import score_reports

BY_NAME = {metric.name: metric for metric in PHANTOM}


def test_equals_the_scores_of_phantom_reports() -> None:
    rng = random.Random(5)
    references = [write_report(draw_truth(rng), rng) for _ in range(60)]
    generated = [write_report(draw_truth(rng), rng) for _ in range(40)] + references[40:]
    expected = score_reports(references, generated, seed=0)
    for name, key in (
        ("phantom_f1", "f1"),
        ("phantom_f1_detailed", "f1_detailed"),
        ("phantom_exact", "exact"),
    ):
        assert 0 < expected[key] < 1
        assert BY_NAME[name](references, generated) == pytest.approx(expected[key], abs=1e-12)


def test_nothing_found_where_nothing_is() -> None:
    assert [metric(["Clear lungs."], ["No nodule."]) for metric in PHANTOM] == [1.0, 1.0, 1.0]
    assert [metric(["There is a nodule."], ["No nodule."]) for metric in PHANTOM] == [0.0, 0.0, 0.0]
