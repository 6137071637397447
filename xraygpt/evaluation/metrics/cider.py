"""CIDEr-D as COCO computes it.

Source: Vedantam, Zitnick and Parikh, CIDEr: Consensus-based Image Description Evaluation, 2015. Sequences of
1 to 4 tokens weighted by how rare they are among the references; the weights of the hypothesis are clipped to
those of the reference, and a Gaussian of the difference in length, sigma 6, is taken off. A report that is
equal to its reference has 10. The value depends on the references given as a whole: values of different test
sets, and of parts of one, do not compare.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain

from xraygpt.evaluation.metrics.metric import Metric, with_counts
from xraygpt.evaluation.metrics.tokens import Ngram, coco_tokens, count_ngrams

ORDERS = 4
SIGMA = 6.0
SCALE = 10.0

Weights = tuple[dict[Ngram, float], float]
"""Of the sequences of one order in a report: weight of each, and their Euclidean norm."""


def cider_d_values(references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
    """Return the CIDEr-D of each report; document frequencies are those of all references given."""
    expected = [coco_tokens(text) for text in references]
    found = [coco_tokens(text) for text in hypotheses]
    values = [0.0] * len(expected)
    for order in range(1, ORDERS + 1):
        counts = [count_ngrams(tokens, order) for tokens in expected]
        frequency = Counter(chain.from_iterable(counts))
        rarity = {ngram: math.log(len(counts) / documents) for ngram, documents in frequency.items()}
        unseen = math.log(len(counts)) if counts else 0.0
        for index, count in enumerate(counts):
            hypothesis = _weights(count_ngrams(found[index], order), rarity, unseen)
            values[index] += _similarity(hypothesis, _weights(count, rarity, unseen))
    return [
        SCALE / ORDERS * value * _length_factor(len(tokens), len(other))
        for value, tokens, other in zip(values, found, expected, strict=True)
    ]


def _weights(counts: Counter[Ngram], rarity: dict[Ngram, float], unseen: float) -> Weights:
    weights = {ngram: count * rarity.get(ngram, unseen) for ngram, count in counts.items()}
    return weights, math.sqrt(sum(weight * weight for weight in weights.values()))


def _similarity(hypothesis: Weights, reference: Weights) -> float:
    """Return the cosine, with the weights of the hypothesis no larger than those of the reference."""
    (found, found_norm), (expected, expected_norm) = hypothesis, reference
    if not found_norm or not expected_norm:
        return 0.0
    product = sum(
        min(weight, expected[ngram]) * expected[ngram] for ngram, weight in found.items() if ngram in expected
    )
    return product / (found_norm * expected_norm)


def _length_factor(found: int, expected: int) -> float:
    """Return the Gaussian of the difference in length, which COCO counts in pairs of tokens."""
    difference = max(0, found - 1) - max(0, expected - 1)
    return math.exp(-(difference**2) / (2 * SIGMA**2))


CIDER_D = Metric(
    name="cider_d",
    title="CIDEr-D",
    equals="pycocoevalcap 1.2, Cider (n 4, sigma 6, document frequencies of the references given, times 10), "
    "tokens of its PTBTokenizer: mean over the reports, 0 to 10",
    statistics=lambda references, hypotheses: with_counts(cider_d_values(references, hypotheses)),
    highest=SCALE,
)
