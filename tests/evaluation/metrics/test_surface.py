from __future__ import annotations

import math

import pytest

from xraygpt.evaluation.metrics.surface import (
    EXACT_MATCH,
    SURFACE,
    is_normal,
    repeated_ngrams,
    repeated_sentences,
    share_of_distinct,
    words_of,
)

BY_NAME = {metric.name: metric for metric in SURFACE}


def test_exact_match_leaves_white_space_aside() -> None:
    assert EXACT_MATCH(["No nodule.", "Yes.", "Yes."], [" No  nodule.\n", "yes.", ""]) == pytest.approx(1 / 3)


def test_words() -> None:
    assert words_of("No ÉPANCHEMENT, 2.5 cm; well-seen.") == [
        "no",
        "épanchement",
        "2",
        "5",
        "cm",
        "well",
        "seen",
    ]


def test_repeated_4grams() -> None:
    assert repeated_ngrams("a b c d e") == 0
    assert repeated_ngrams("a b c d a b c d") == pytest.approx(1 / 5)  # abcd bcda cdab dabc abcd
    assert repeated_ngrams("the the the the the the") == pytest.approx(2 / 3)
    assert repeated_ngrams("a b c") == repeated_ngrams("") == 0


def test_repeated_sentences() -> None:
    assert repeated_sentences("No effusion. Clear lungs. NO EFFUSION!") == pytest.approx(1 / 3)
    assert repeated_sentences("No effusion.") == repeated_sentences("") == 0


def test_means_over_reports() -> None:
    generated = ["a b c d a b c d", "x"]
    assert BY_NAME["repeated_4grams"](["", ""], generated) == pytest.approx(0.1)
    assert BY_NAME["words_generated"](["r r", "r r"], generated) == 4.5
    assert BY_NAME["words_reference"](["r r", "r r"], generated) == 2
    assert BY_NAME["length_ratio"](["r r", "r r"], generated) == 9 / 4
    assert math.isnan(BY_NAME["length_ratio"]([""], [""]))


def test_distinct_reports() -> None:
    texts = ["a", "a ", "b", "c"]
    assert share_of_distinct(texts) == [0.5, 0.5, 1, 1]
    assert BY_NAME["distinct"](["r"] * 4, texts) == 0.75
    assert BY_NAME["distinct"](["r"] * 4, ["same"] * 4) == 0.25


def test_normal_reports() -> None:
    assert is_normal("The lungs are clear.")
    assert not is_normal("Left effusion.")
    assert not is_normal("")
    references, generated = ["Left effusion.", "Clear."], ["Clear lungs.", "No effusion."]
    assert BY_NAME["normal_generated"](references, generated) == 1.0
    assert BY_NAME["normal_reference"](references, generated) == 0.5
