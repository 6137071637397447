"""How often generated reports speak of an earlier examination that the model has not seen.

After Ramesh, Chi and Rajpurkar 2022 (see ``xraygpt.evaluation.priors``). Sections that do not describe the
images (comparison, history, ...) are passed over where a report has headers for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from xraygpt.evaluation.labeller_sentences import image_sections
from xraygpt.evaluation.metrics.metric import Array, Metric, mean_of_values, with_counts
from xraygpt.evaluation.priors import compares_with_prior
from xraygpt.evaluation.readings import CACHED_TEXTS
from xraygpt.evaluation.sentences import split_sentences


@lru_cache(maxsize=CACHED_TEXTS)
def count_prior_statements(text: str) -> tuple[int, int]:
    """Return how many sentences of a report compare with an earlier examination, and how many it has."""
    sentences = [s for start, end in image_sections(text) for s in split_sentences(text[start:end])]
    return sum(map(compares_with_prior, sentences)), len(sentences)


def _of_reports(references: Sequence[str], hypotheses: Sequence[str]) -> Array:
    return with_counts([count_prior_statements(text)[0] > 0 for text in hypotheses])


def _of_sentences(references: Sequence[str], hypotheses: Sequence[str]) -> Array:
    counts = [count_prior_statements(text) for text in hypotheses]
    return np.array(counts, dtype=np.float64).reshape(len(hypotheses), 2)


PRIOR_STATEMENTS: tuple[Metric, ...] = (
    Metric(
        name="prior_reports",
        title="reports with a comparison",
        equals="share of generated reports with a sentence that compares with an earlier examination, "
        "by this project's rules",
        statistics=_of_reports,
        score=mean_of_values,
        english_only=True,
        higher_is_better=False,
    ),
    Metric(
        name="prior_sentences",
        title="sentences with a comparison",
        equals="share of all generated sentences that compare with an earlier examination, by this "
        "project's rules",
        statistics=_of_sentences,
        score=mean_of_values,
        english_only=True,
        higher_is_better=False,
    ),
)
