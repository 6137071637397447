"""Scores by the sequences of words that two reports share: ROUGE, BLEU and CIDEr-D.

Each equals its published implementation, which the tests hold it against. They differ in their tokens, which
make the protocols (`xraygpt.evaluation.metrics.tokens`): the same BLEU of the same reports is .14 or .16.

- ROUGE-1, ROUGE-2 and ROUGE-L (Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004): the F1 of
  ``rouge_score`` 0.1.2, without stemming, or COCO's F with beta 1.2. Both packages take a quadratic table of
  Python lists for the longest common subsequence, ten times as slow for 40 words; here it is a row of bits.
- BLEU (Papineni et al., BLEU: a Method for Automatic Evaluation of Machine Translation, 2002): COCO's BLEU-1
  to BLEU-4 from 0 to 1 and sacrebleu from 0 to 100 are of the whole corpus: counts, which the package
  sacrebleu takes, are summed over the reports, never their scores. ReXrank's BLEU-2 is a mean over reports.
- CIDEr-D as COCO computes it (Vedantam, Zitnick and Parikh, CIDEr: Consensus-based Image Description
  Evaluation, 2015): sequences of 1 to 4 tokens weighted by how rare they are among the references; the
  weights of the hypothesis are clipped to those of the reference, and a Gaussian of the difference in length,
  sigma 6, is taken off. A report that is equal to its reference has 10. The value depends on the references
  given as a whole: values of different test sets, and of parts of one, do not compare.

COCO's own package gives no sums that add up, and is an extra, since it brings METEOR's tables.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, islice

import numpy as np
from sacrebleu import __version__ as SACREBLEU_VERSION
from sacrebleu.metrics.bleu import BLEU as SacreBLEU

from xraygpt.evaluation.language import is_latin
from xraygpt.evaluation.metrics.metric import Array, Metric, mean_over_pairs, with_counts
from xraygpt.evaluation.metrics.tokens import (
    PTB,
    R2GEN,
    Tokenize,
    Words,
    coco_tokens,
    r2gen_text,
    rexrank_tokens,
)

ORDERS = 4
"""BLEU and CIDEr-D look at sequences of 1 to 4 tokens."""
Ngram = tuple[str, ...]


def count_ngrams(tokens: Sequence[str], order: int) -> Counter[Ngram]:
    """Return how often each sequence of ``order`` tokens occurs."""
    return Counter(zip(*(islice(tokens, start, None) for start in range(order)), strict=False))


ROUGE_WORD = re.compile(r"[a-z0-9]+")
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
    return (ROUGE_WORD if is_latin(text) else OTHER_SCRIPT_WORD).findall(text.lower())


def rouge_n(reference: str, hypothesis: str, order: int) -> float:
    """Return the F1 of the sequences of `order` words that two texts share."""
    expected, found = (count_ngrams(rouge_tokens(text), order) for text in (reference, hypothesis))
    return _f((expected & found).total(), expected.total(), found.total())


def rouge_l(reference: str, hypothesis: str) -> float:
    """Return the F1 of the longest common subsequence of two texts, each taken as one sentence."""
    expected, found = rouge_tokens(reference), rouge_tokens(hypothesis)
    return _f(longest_common_subsequence(expected, found), len(expected), len(found))


def r2gen_rouge_l(reference: str, hypothesis: str) -> float:
    """Return COCO's ROUGE-L, in which recall counts more: F with beta 1.2; it cuts at each single blank."""
    expected, found = (r2gen_text(text).split(" ") for text in (reference, hypothesis))
    return _f(longest_common_subsequence(expected, found), len(expected), len(found), beta=1.2)


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


def _f(shared: int, expected: int, found: int, beta: float = 1.0) -> float:
    return (1 + beta**2) * shared / (beta**2 * expected + found) if shared else 0.0


NO_GUESS = 1e-9
NO_MATCH = 1e-15
"""COCO's BLEU adds these so that nothing is divided by zero; kept, since they show in the score of one
report."""


def bleu_statistics(
    references: Sequence[str], hypotheses: Sequence[str], tokenize: Tokenize | None = None
) -> Array:
    """Return the statistics (N, 10) of N reports, as the package sacrebleu counts them.

    They are matches of order 1 to 4, sequences of order 1 to 4 in the hypothesis, its length, the reference's
    length.

    Args:
        tokenize: None for sacrebleu's own tokens (13a).
    """
    counter = SacreBLEU(effective_order=True, tokenize="none" if tokenize else "13a")
    if tokenize:
        references, hypotheses = ([" ".join(tokenize(t)) for t in side] for side in (references, hypotheses))
    pairs = zip(references, hypotheses, strict=True)
    found = (counter.sentence_score(hypothesis, [reference]) for reference, hypothesis in pairs)
    rows = [[*each.counts, *each.totals, each.sys_len, each.ref_len] for each in found]
    return np.asarray(rows, dtype=np.float64).reshape(-1, 2 * ORDERS + 2)


def coco_score(sums: Array, order: int) -> Array:
    """Return COCO's BLEU of an order from sums (..., 10): 0 to 1."""
    matches, guesses = sums[..., :order], sums[..., ORDERS : ORDERS + order]
    precision = np.prod((matches + NO_MATCH) / (guesses + NO_GUESS), axis=-1) ** (1 / order)
    ratio = (sums[..., -2] + NO_MATCH) / (sums[..., -1] + NO_GUESS)
    result: Array = precision * np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return result


def sacrebleu_score(sums: Array) -> Array:
    """Return sacrebleu's BLEU from sums (..., 10): 0 to 100."""
    rows = sums.astype(int).reshape(-1, 2 * ORDERS + 2).tolist()
    scores = [SacreBLEU.compute_bleu(row[:4], row[4:8], row[8], row[9], "exp").score for row in rows]
    return np.asarray(scores).reshape(sums.shape[:-1])


def rexrank_bleu_2(references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
    """Return the BLEU-2 of each report as ReXrank's fast-bleu computes it.

    A report that shares words but no pair of words counts a tenth of a pair (smoothing 1 of Chen and Cherry
    2014, as in NLTK), one that shares no word has 0.
    """
    counts = bleu_statistics(references, hypotheses, rexrank_tokens)
    matches, guesses = counts[:, :2], np.maximum(counts[:, ORDERS : ORDERS + 2], 1)
    precision = np.prod(np.where(matches > 0, matches, 0.1) / guesses, axis=1) ** 0.5
    brevity = np.exp(np.minimum(0.0, 1 - counts[:, -1] / np.maximum(counts[:, -2], 1)))
    values: list[float] = np.where(matches[:, 0] > 0, precision * brevity, 0.0).tolist()
    return values


CIDER_SIGMA = 6.0
CIDER_SCALE = 10.0


def cider_d_values(
    references: Sequence[str], hypotheses: Sequence[str], tokenize: Tokenize = coco_tokens
) -> list[float]:
    """Return the CIDEr-D of each report; document frequencies are those of all references given."""
    expected, found = [*map(tokenize, references)], [*map(tokenize, hypotheses)]
    values = [0.0] * len(expected)
    for order in range(1, ORDERS + 1):
        counts = [count_ngrams(tokens, order) for tokens in expected]
        documents = Counter(chain.from_iterable(counts))
        rarity = [math.log((len(counts) or 1) / (number or 1)) for number in range(len(counts) + 1)]
        for index, (count, tokens) in enumerate(zip(counts, found, strict=True)):
            of_reference, of_hypothesis = (
                {ngram: number * rarity[documents[ngram]] for ngram, number in ngrams.items()}
                for ngrams in (count, count_ngrams(tokens, order))
            )
            values[index] += _similarity(of_hypothesis, of_reference)
    # COCO counts the difference in length in pairs of tokens.
    lengths = [[max(0, len(tokens) - 1) for tokens in texts] for texts in (found, expected)]
    return [
        CIDER_SCALE / ORDERS * value * math.exp(-((a - b) ** 2) / (2 * CIDER_SIGMA**2))
        for value, a, b in zip(values, *lengths, strict=True)
    ]


def _similarity(hypothesis: Mapping[Ngram, float], reference: Mapping[Ngram, float]) -> float:
    """Return the cosine of two weightings, that of the hypothesis clipped to that of the reference."""
    found, expected = (math.sqrt(sum(w * w for w in each.values())) for each in (hypothesis, reference))
    if not found or not expected:
        return 0.0
    shared = [(weight, reference[ngram]) for ngram, weight in hypothesis.items() if ngram in reference]
    return sum(min(weight, other) * other for weight, other in shared) / (found * expected)


def _rouge(suffix: str, value: Callable[[str, str], float]) -> Metric:
    return Metric(
        name=f"rouge_{suffix.lower()}",
        title=f"ROUGE-{suffix}",
        equals="rouge_score 0.1.2, use_stemmer=False (lower case, runs of ASCII letters and digits): mean "
        "over the reports of the F1; reports in other scripts than the Latin one by their words or, where "
        "there are no spaces, characters",
        statistics=mean_over_pairs(value),
    )


def _bleu(words: Words) -> tuple[Metric, ...]:
    statistics = partial(bleu_statistics, tokenize=words.tokenize)  # one for all orders, which count once
    return tuple(
        Metric(
            name=f"{words.prefix}bleu_{order}",
            title=f"BLEU-{order}{words.suffix}",
            equals=f"pycocoevalcap 1.2, Bleu({ORDERS}), reference length 'closest', {words.how}: of the "
            "corpus, 0 to 1",
            statistics=statistics,
            score=partial(coco_score, order=order),
        )
        for order in range(1, ORDERS + 1)
    )


def _cider_d(words: Words) -> Metric:
    return Metric(
        name=f"{words.prefix}cider_d",
        title=f"CIDEr-D{words.suffix}",
        equals="pycocoevalcap 1.2, Cider, which is CIDEr-D (n 4, sigma 6, document frequencies of the "
        f"references given, times 10), {words.how}: mean over the reports, 0 to 10",
        statistics=lambda references, hypotheses: with_counts(
            cider_d_values(references, hypotheses, words.tokenize)
        ),
        highest=CIDER_SCALE,
    )


ROUGE = (_rouge("1", partial(rouge_n, order=1)), _rouge("2", partial(rouge_n, order=2)), _rouge("L", rouge_l))
R2GEN_ROUGE_L = Metric(
    name="r2gen_rouge_l",
    title=f"ROUGE-L{R2GEN.suffix}",
    equals=f"pycocoevalcap 1.2, Rouge (COCO's ROUGE-L: F with beta 1.2), {R2GEN.how}: mean over the reports",
    statistics=mean_over_pairs(r2gen_rouge_l),
)
BLEU, R2GEN_BLEU = _bleu(PTB), _bleu(R2GEN)
CIDER_D, R2GEN_CIDER_D = _cider_d(PTB), _cider_d(R2GEN)
SACREBLEU = Metric(
    name="sacrebleu",
    title="sacreBLEU",
    equals="sacrebleu, corpus_bleu, signature nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:"
    f"{SACREBLEU_VERSION}: of the corpus, 0 to 100",
    statistics=bleu_statistics,
    score=sacrebleu_score,
    highest=100.0,
)
REXRANK_BLEU_2 = Metric(
    name="rexrank_bleu_2",
    title="BLEU-2 (ReXrank)",
    equals="fast-bleu as CXR-Report-Metric calls it (weights 1/2, 1/2; NLTK's smoothing method1), lower "
    "case, full stops spaced out as words, split at blanks: mean over the reports, 0 to 1",
    statistics=lambda references, hypotheses: with_counts(rexrank_bleu_2(references, hypotheses)),
)
