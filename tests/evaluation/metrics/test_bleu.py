"""BLEU by hand; against pycocoevalcap and sacrebleu in test_parity.py."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xraygpt.evaluation.metrics.overlap import BLEU, SACREBLEU, tokens_13a

REFERENCE = "the lungs are clear and the heart is normal"
BLEU_1, BLEU_2, BLEU_3, BLEU_4 = BLEU


def test_shared_words_with_a_penalty_for_brevity() -> None:
    assert BLEU_1([REFERENCE], ["the lungs are white"]) == pytest.approx(3 / 4 * math.exp(1 - 9 / 4))
    assert BLEU_2([REFERENCE], [REFERENCE + " . the"]) == pytest.approx(math.sqrt(9 / 10 * 8 / 9))


def test_counts_are_summed_over_reports_and_not_scores() -> None:
    references, hypotheses = [REFERENCE, "clear"], [REFERENCE, "white"]
    assert BLEU_1(references, hypotheses) == pytest.approx(9 / 10)


def test_the_two_have_two_scales() -> None:
    assert BLEU_4([REFERENCE], [REFERENCE]) == pytest.approx(1.0)
    assert SACREBLEU([REFERENCE], [REFERENCE]) == pytest.approx(100.0)


def test_case_counts_in_sacrebleu_only() -> None:
    assert BLEU_4([REFERENCE], [REFERENCE.upper()]) == pytest.approx(1.0)
    assert SACREBLEU([REFERENCE], [REFERENCE.upper()]) == 0.0


@pytest.mark.parametrize("metric", [*BLEU, SACREBLEU], ids=lambda metric: metric.name)
@pytest.mark.parametrize(("reference", "hypothesis"), [("", ""), (REFERENCE, ""), ("", REFERENCE)])
def test_empty_reports_have_no_score_but_zero(metric, reference: str, hypothesis: str) -> None:
    assert metric([reference], [hypothesis]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("metric", [*BLEU, SACREBLEU], ids=lambda metric: metric.name)
def test_sums_of_many_samples_are_scored_at_once(metric) -> None:
    statistics = metric.statistics([REFERENCE, "clear lungs", "no effusion"], ["the lungs", "clear", ""])
    sums = np.array([[1.0, 1, 1], [0, 2, 1], [0, 0, 3]]) @ statistics
    assert metric.score(sums) == pytest.approx([float(metric.score(row)) for row in sums])


def test_the_orders_share_their_counts() -> None:
    assert len({metric.statistics for metric in BLEU}) == 1


def test_13a_keeps_numbers_together() -> None:
    assert " ".join(tokens_13a("A 2.5-cm node (left), &lt;3 mm.\n")) == "A 2.5 - cm node ( left ) , < 3 mm ."
