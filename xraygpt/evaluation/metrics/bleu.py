"""BLEU on its two scales: COCO's BLEU-1 to BLEU-4 from 0 to 1, and sacrebleu from 0 to 100.

Both are of the whole corpus: counts of shared word sequences are summed over the reports, never their
scores. They differ in tokens, in letter case and in what happens where nothing is shared, so they have
different names. Source: Papineni et al., BLEU: a Method for Automatic Evaluation of Machine Translation,
2002.

Statistics of a report, K = 10: matches of order 1 to 4, sequences of order 1 to 4 in the hypothesis, its
length, the reference's length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from xraygpt.evaluation.metrics.metric import Array, Metric
from xraygpt.evaluation.metrics.tokens import coco_tokens, count_ngrams

ORDERS = 4
NO_GUESS = 1e-9
NO_MATCH = 1e-15
"""COCO adds these so that nothing is divided by zero; kept, since they show in the score of one report."""

_13A_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_13A_RULES = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
"""Punctuation but for that inside of numbers stands alone."""


def tokens_13a(text: str) -> list[str]:
    """Return the words of a text as ``mteval-v13a`` and sacrebleu cut it, in the letter case it has."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _13A_ENTITIES:
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, replacement in _13A_RULES:
        text = pattern.sub(replacement, text)
    return text.split()


def bleu_statistics(
    references: Sequence[str], hypotheses: Sequence[str], tokenize: Callable[[str], list[str]]
) -> Array:
    """Return the statistics (N, 10) of N reports."""
    rows = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        expected, found = tokenize(reference), tokenize(hypothesis)
        matches = [
            (count_ngrams(expected, order) & count_ngrams(found, order)).total()
            for order in range(1, ORDERS + 1)
        ]
        guesses = [max(0, len(found) - order + 1) for order in range(1, ORDERS + 1)]
        rows.append([*matches, *guesses, len(found), len(expected)])
    return np.asarray(rows, dtype=np.float64).reshape(-1, 2 * ORDERS + 2)


def coco_score(sums: Array, order: int) -> Array:
    """Return COCO's BLEU of an order from sums (..., 10): 0 to 1."""
    matches, guesses = sums[..., :order], sums[..., ORDERS : ORDERS + order]
    precision = np.prod((matches + NO_MATCH) / (guesses + NO_GUESS), axis=-1) ** (1 / order)
    ratio = (sums[..., -2] + NO_MATCH) / (sums[..., -1] + NO_GUESS)
    result: Array = precision * np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return result


def sacrebleu_score(sums: Array) -> Array:
    """Return sacrebleu's BLEU, with its exponential smoothing, from sums (..., 10): 0 to 100."""
    matches, guesses = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS]
    halvings = np.cumsum(matches == 0, axis=-1)
    smoothed = np.where(matches == 0, 0.5**halvings, matches)
    with np.errstate(invalid="ignore", divide="ignore"):
        logarithm = np.log(smoothed / guesses).mean(axis=-1)
        brevity = np.minimum(0.0, 1 - sums[..., -1] / sums[..., -2])
        result: Array = np.where(
            matches.any(axis=-1) & guesses.all(axis=-1), 100 * np.exp(logarithm + brevity), 0.0
        )
    return result


_COCO_STATISTICS = partial(bleu_statistics, tokenize=coco_tokens)
"""One object, so that whoever scores all four orders can count once."""

BLEU = tuple(
    Metric(
        name=f"bleu_{order}",
        title=f"BLEU-{order}",
        equals=f"pycocoevalcap 1.2, Bleu({ORDERS}), reference length 'closest', tokens of its PTBTokenizer: "
        f"BLEU-{order} of the corpus, 0 to 1",
        statistics=_COCO_STATISTICS,
        score=partial(coco_score, order=order),
    )
    for order in range(1, ORDERS + 1)
)
SACREBLEU = Metric(
    name="sacrebleu",
    title="sacreBLEU",
    equals="sacrebleu 2.6.0, corpus_bleu: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp, 0 to 100",
    statistics=partial(bleu_statistics, tokenize=tokens_13a),
    score=sacrebleu_score,
    highest=100.0,
)
