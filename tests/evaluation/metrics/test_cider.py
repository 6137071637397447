"""CIDEr-D by hand; against pycocoevalcap in test_parity.py."""

from __future__ import annotations

import math

import pytest

from xraygpt.evaluation.metrics.overlap import CIDER_D, cider_d_values

REFERENCES = ["the heart is normal in size", "the lungs are clear today", "small left pleural effusion seen"]


def test_a_report_equal_to_its_reference_has_ten() -> None:
    assert cider_d_values(REFERENCES, REFERENCES) == pytest.approx([10.0] * 3)
    assert CIDER_D(REFERENCES, REFERENCES) == pytest.approx(10.0)


def test_words_of_every_reference_weigh_nothing() -> None:
    assert cider_d_values(["the heart", "the lungs"], ["the", "lungs"])[0] == 0.0


def test_rare_words_weigh_more() -> None:
    # "the" stands in two of three references, "clear" in one.
    common = cider_d_values(REFERENCES, ["the a b c d e", REFERENCES[1], ""])[0]
    rare = cider_d_values(REFERENCES, ["size a b c d e", REFERENCES[1], ""])[0]
    assert 0 < common < rare


def test_another_length_is_taken_off_by_a_gaussian() -> None:
    references = ["alpha", "beta"]
    # One order of four matches: 2.5 points. Five words are four pairs, one word is none.
    (value, _) = cider_d_values(references, ["alpha alpha alpha alpha alpha", ""])
    assert value == pytest.approx(2.5 * 1 / 5 * math.exp(-16 / 72))


def test_one_reference_alone_has_no_rare_words() -> None:
    assert cider_d_values(["the heart"], ["the heart"]) == [0.0]


def test_empty_report_is_zero_and_no_reports_are_none() -> None:
    assert cider_d_values(REFERENCES, ["", "", ""]) == [0.0, 0.0, 0.0]
    assert cider_d_values([], []) == []
