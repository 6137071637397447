"""What generated reports look like, whatever they say: repetition, length, variety, share of normal ones.

Words are runs of letters and digits in lower case. All but the ratio of lengths are means over reports.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import lru_cache, partial

import numpy as np

from xraygpt.evaluation.labeller import CACHED_TEXTS, Status, label_report
from xraygpt.evaluation.labeller_lexicon import NO_FINDING
from xraygpt.evaluation.metrics.metric import (
    Array,
    Metric,
    error_rate,
    mean_over_generated,
    mean_over_pairs,
    with_counts,
)
from xraygpt.evaluation.priors import compares_with_prior
from xraygpt.evaluation.sentences import image_sections, split_sentences

WORD = re.compile(r"\w+")
NGRAM = 4


def words_of(text: str) -> list[str]:
    """Return the words of a report."""
    return WORD.findall(text.lower())


def repeated_ngrams(text: str) -> float:
    """Return the share of a report's 4-grams that stood in it before; 0 for less than four words.

    This is the seq-rep-4 of Welleck et al. 2020 (https://arxiv.org/abs/1908.04319).
    """
    words = words_of(text)
    return _repeated([tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)])


def repeated_sentences(text: str) -> float:
    """Return the share of a report's sentences, compared by their words, that stood in it before."""
    return _repeated([tuple(words_of(sentence)) for sentence in split_sentences(text)])


def is_normal(text: str) -> bool:
    """Tell whether the labeller finds "No Finding" in a report."""
    return label_report(text).get(NO_FINDING) == Status.POSITIVE


def share_of_distinct(texts: Sequence[str]) -> list[float]:
    """Return for each report 1 / the number of reports equal to it, white space aside, itself included.

    Their sum is the number of different reports, their mean the share of them.
    """
    keys = [" ".join(text.split()) for text in texts]
    counts = Counter(keys)
    return [1 / counts[key] for key in keys]


def _repeated(items: Sequence[Hashable]) -> float:
    return 1 - len(set(items)) / len(items) if items else 0.0


def _count_words(text: str) -> int:
    return len(words_of(text))


def _lengths(references: Sequence[str], hypotheses: Sequence[str]) -> Array:
    return np.array([[*map(_count_words, texts)] for texts in (hypotheses, references)], dtype=np.float64).T


_description = partial(Metric, heading="Length and variety", descriptive=True)

SURFACE: tuple[Metric, ...] = (
    error_rate(
        name="repeated_4grams",
        title="repeated 4-grams",
        equals="seq-rep-4 (Welleck et al. 2020) on words: mean share of a generated report's 4-grams that "
        "stood in it before",
        statistics=mean_over_generated(repeated_ngrams),
    ),
    error_rate(
        name="repeated_sentences",
        title="repeated sentences",
        equals="mean share of a generated report's sentences that stood in it before",
        statistics=mean_over_generated(repeated_sentences),
    ),
    _description(
        name="words_generated",
        title="words, generated",
        equals="mean number of words of generated reports; descriptive, neither high nor low is better",
        statistics=mean_over_generated(_count_words),
        highest=math.inf,
    ),
    _description(
        name="words_reference",
        title="words, reference",
        equals="mean number of words of references; descriptive",
        statistics=mean_over_pairs(lambda reference, hypothesis: _count_words(reference)),
        highest=math.inf,
    ),
    _description(
        name="length_ratio",
        title="length ratio",
        equals="words of all generated reports / words of all references; descriptive, 1 is best",
        statistics=_lengths,
        highest=math.inf,
    ),
    _description(
        name="distinct",
        title="distinct reports",
        equals="number of different generated reports / number of reports; descriptive. Each report counts "
        "1 / the reports equal to it among all that are scored, also in subgroups and bootstrap samples",
        statistics=lambda references, hypotheses: with_counts(share_of_distinct(hypotheses)),
    ),
    _description(
        name="normal_generated",
        title="normal reports, generated",
        equals="share of generated reports that the rule labeller calls No Finding; descriptive",
        statistics=mean_over_generated(is_normal),
        english_only=True,
    ),
    _description(
        name="normal_reference",
        title="normal reports, reference",
        equals="share of references that the rule labeller calls No Finding; descriptive",
        statistics=mean_over_pairs(lambda reference, hypothesis: is_normal(reference)),
        english_only=True,
    ),
)


EXACT_MATCH = Metric(
    name="exact_match",
    title="exact match",
    equals="share of generated texts that are their references, white space aside; for short answers",
    statistics=mean_over_pairs(lambda reference, hypothesis: reference.split() == hypothesis.split()),
)


@lru_cache(maxsize=CACHED_TEXTS)
def count_prior_statements(text: str) -> tuple[int, int]:
    """Return how many sentences of a report compare with an earlier examination, and how many it has."""
    sentences = [s for start, end in image_sections(text) for s in split_sentences(text[start:end])]
    return sum(map(compares_with_prior, sentences)), len(sentences)


def _of_sentences(references: Sequence[str], hypotheses: Sequence[str]) -> Array:
    return np.array([*map(count_prior_statements, hypotheses)], dtype=np.float64).reshape(-1, 2)


PRIOR_STATEMENTS: tuple[Metric, ...] = (
    error_rate(
        name="prior_reports",
        title="reports with a comparison",
        equals="share of generated reports with a sentence that compares with an earlier examination, "
        "by this project's rules",
        statistics=mean_over_generated(lambda text: count_prior_statements(text)[0] > 0),
        english_only=True,
    ),
    error_rate(
        name="prior_sentences",
        title="sentences with a comparison",
        equals="share of all generated sentences that compare with an earlier examination, by this "
        "project's rules",
        statistics=_of_sentences,
        english_only=True,
    ),
)
