"""BLEU by hand; against pycocoevalcap and sacrebleu in test_parity.py."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xraygpt.evaluation.metrics.overlap import (
    BLEU,
    R2GEN_BLEU,
    REXRANK_BLEU_2,
    SACREBLEU,
    bleu_statistics,
    rexrank_bleu_2,
)

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


def test_sacrebleu_keeps_numbers_together() -> None:
    (counts,) = bleu_statistics(["A 2.5-cm node (left), &lt;3 mm.\n"], ["A 2.5 - cm node"])
    assert counts.tolist() == [5, 4, 3, 2, 5, 4, 3, 2, 5, 13]  # of: A 2.5 - cm node ( left ) , < 3 mm .


def test_the_full_stop_is_a_word_in_other_protocols() -> None:
    reference, hypothesis = "The lungs are clear. No effusion.", "No  EFFUSION. Lungs."
    # Words: no effusion . lungs . are all there; pairs: no effusion, effusion . are two of four.
    brevity = math.exp(1 - 8 / 5)
    assert R2GEN_BLEU[0]([reference], [hypothesis]) == pytest.approx(brevity)
    assert R2GEN_BLEU[1]([reference], [hypothesis]) == pytest.approx(brevity * math.sqrt(2 / 4))
    assert BLEU_1([reference], [hypothesis]) == pytest.approx(math.exp(1 - 6 / 3))
    assert REXRANK_BLEU_2([reference], [hypothesis]) == pytest.approx(brevity * math.sqrt(2 / 4))


def test_rexrank_takes_the_mean_of_reports_and_a_tenth_of_a_pair_where_there_is_none() -> None:
    references, hypotheses = ["clear lungs", "clear lungs", "clear"], ["clear lungs", "lungs clear", ""]
    expected = [1, math.sqrt(1 * 0.1), 0]
    assert rexrank_bleu_2(references, hypotheses) == pytest.approx(expected)
    assert REXRANK_BLEU_2(references, hypotheses) == pytest.approx(sum(expected) / 3)
