from __future__ import annotations

import math

import pytest

from xraygpt.evaluation.metrics.surface import PRIOR_STATEMENTS, count_prior_statements

REPORTS, SENTENCES = PRIOR_STATEMENTS


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("Stable cardiomegaly. No pneumothorax. The effusion has increased.", (2, 3)),
        ("The lungs are clear.", (0, 1)),
        ("Comparison: prior radiograph of yesterday. Findings: The lungs are clear.", (0, 1)),
        ("Findings: Clear. Impression: No change from the prior study.", (1, 2)),
        ("", (0, 0)),
    ],
)
def test_counts(text: str, counts: tuple[int, int]) -> None:
    assert count_prior_statements(text) == counts


def test_rates_are_of_the_generated_reports_only() -> None:
    generated = ["Stable cardiomegaly. Clear lungs.", "Clear lungs. No effusion.", ""]
    references = ["Unchanged effusion."] * 3
    assert REPORTS(references, generated) == pytest.approx(1 / 3)
    assert SENTENCES(references, generated) == pytest.approx(1 / 4)
    assert not REPORTS.higher_is_better
    assert not SENTENCES.higher_is_better


def test_no_sentence_at_all() -> None:
    assert REPORTS(["Clear."], [""]) == 0.0
    assert math.isnan(SENTENCES(["Clear."], [""]))
