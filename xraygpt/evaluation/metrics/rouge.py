"""ROUGE-1, ROUGE-2 and ROUGE-L: the F1 of ``rouge_score`` 0.1.2, without stemming.

Source: Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004. ``rouge_score`` takes a quadratic
table of Python lists for the longest common subsequence; here it is a row of bits, so that thousands of
reports take a second. The tests compare the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

from xraygpt.evaluation.language import is_latin
from xraygpt.evaluation.metrics.metric import Metric, mean_over_pairs
from xraygpt.evaluation.metrics.tokens import count_ngrams

WORD = re.compile(r"[a-z0-9]+")
"""Everything else separates words, letters outside of ASCII too."""
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
OTHER_SCRIPT_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[\w\u0300-\u036f])+")
"""A character of a script without spaces between words (Chinese, Japanese, Thai, ...), or a word."""


def rouge_tokens(text: str) -> list[str]:
    """Return the words of a text as ``rouge_score`` cuts it by default: lower case, no stemming.

    A text in another script than the Latin one, of which ``rouge_score`` leaves nothing, is cut into words,
    and into characters where its script has no spaces.
    """
    words = WORD if is_latin(text) else OTHER_SCRIPT_WORD
    return words.findall(text.lower())


def rouge_n(reference: str, hypothesis: str, order: int) -> float:
    """Return the F1 of the sequences of `order` words that two texts share."""
    expected = count_ngrams(rouge_tokens(reference), order)
    found = count_ngrams(rouge_tokens(hypothesis), order)
    return _f1((expected & found).total(), expected.total(), found.total())


def rouge_l(reference: str, hypothesis: str) -> float:
    """Return the F1 of the longest common subsequence of two texts, each taken as one sentence."""
    expected, found = rouge_tokens(reference), rouge_tokens(hypothesis)
    return _f1(longest_common_subsequence(expected, found), len(expected), len(found))


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return its length (Hyyrö, Bit-parallel LCS-length computation revisited, 2004)."""
    places: dict[str, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for token in second:
        matched = row & places.get(token, 0)
        row = (row + matched | row - matched) & full
    return len(first) - row.bit_count()


def _f1(shared: int, expected: int, found: int) -> float:
    return 2 * shared / (expected + found) if shared else 0.0


def _rouge(suffix: str, value: Callable[[str, str], float]) -> Metric:
    return Metric(
        name=f"rouge_{suffix.lower()}",
        title=f"ROUGE-{suffix}",
        equals=f"rouge_score 0.1.2, use_stemmer=False: mean over the reports of the F1 of rouge{suffix}; "
        "reports in other scripts than the Latin one by their words or, where there are no spaces, "
        "characters",
        statistics=mean_over_pairs(value),
    )


ROUGE = (_rouge("1", partial(rouge_n, order=1)), _rouge("2", partial(rouge_n, order=2)), _rouge("L", rouge_l))
