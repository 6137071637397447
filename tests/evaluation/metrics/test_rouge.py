"""ROUGE by hand; against ``rouge_score`` in test_parity.py."""

from __future__ import annotations

import pytest

from xraygpt.evaluation.metrics.overlap import (
    R2GEN_ROUGE_L,
    ROUGE,
    longest_common_subsequence,
    rouge_l,
    rouge_n,
    rouge_tokens,
)

REFERENCE = "The heart is normal."
ROUGE_1, ROUGE_2, ROUGE_L = ROUGE


def test_words_are_runs_of_ascii_letters_and_digits() -> None:
    assert rouge_tokens("Non-specific 3.5 cm œdema") == ["non", "specific", "3", "5", "cm", "dema"]


def test_f1_of_shared_words() -> None:
    assert rouge_n(REFERENCE, "the heart", 1) == pytest.approx(2 * 2 / (4 + 2))
    assert rouge_n(REFERENCE, "the heart", 2) == pytest.approx(2 * 1 / (3 + 1))


def test_a_word_counts_as_often_as_both_have_it() -> None:
    assert rouge_n("the the heart", "the the the", 1) == pytest.approx(2 * 2 / 6)


def test_recall_counts_more_in_cocos() -> None:
    # 3 of 5 words of the reference ("." is one) and 3 of 3 that were written.
    assert R2GEN_ROUGE_L([REFERENCE], ["The heart ."]) == pytest.approx(2.44 * 0.6 / (0.6 + 1.44))
    assert R2GEN_ROUGE_L([REFERENCE, REFERENCE], [REFERENCE, ""]) == 0.5


def test_longest_common_subsequence_keeps_the_order() -> None:
    assert longest_common_subsequence("abcbdab", "bdcaba") == 4
    assert longest_common_subsequence("abc", "cba") == 1
    assert rouge_l(REFERENCE, "normal the heart") == pytest.approx(2 * 2 / (4 + 3))


@pytest.mark.parametrize("metric", ROUGE, ids=lambda metric: metric.name)
@pytest.mark.parametrize(
    ("reference", "hypothesis"), [("", ""), (REFERENCE, ""), ("", REFERENCE), ("—", "…")]
)
def test_nothing_shared_is_zero(metric, reference: str, hypothesis: str) -> None:
    assert metric([reference], [hypothesis]) == 0.0


def test_score_is_the_mean_over_reports() -> None:
    assert ROUGE_1([REFERENCE, REFERENCE], [REFERENCE, ""]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "text", ["双肺清晰。未见急性异常。", "Лёгкие без изменений.", "ปอดปกติ", "पल्मोनरी स्पष्ट"]
)
def test_identical_reports_in_other_scripts_agree(text: str) -> None:
    assert rouge_l(text, text) == rouge_n(text, text, 1) == 1
    assert rouge_l(text, "Normal.") == 0


def test_scripts_without_spaces_are_cut_into_characters() -> None:
    assert rouge_tokens("CT: 双肺清晰。T1清") == ["ct", "双", "肺", "清", "晰", "t1", "清"]
    assert rouge_tokens("Лёгкие чистые.") == ["лёгкие", "чистые"]
    assert rouge_tokens("µ café Ω") == ["caf"]  # as rouge_score
