"""Scores by the sequences of words that two reports share: ROUGE, BLEU and CIDEr-D.

Each equals its published implementation, which the tests hold it against; they differ in their tokens.

- ROUGE-1, ROUGE-2 and ROUGE-L (Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004): the F1 of
  ``rouge_score`` 0.1.2, without stemming, which takes a quadratic table of Python lists for the longest
  common subsequence; here it is a row of bits, so that thousands of reports take a second.
- BLEU (Papineni et al., BLEU: a Method for Automatic Evaluation of Machine Translation, 2002) on its two
  scales: COCO's BLEU-1 to BLEU-4 from 0 to 1, and sacrebleu from 0 to 100. Both are of the whole corpus:
  counts are summed over the reports, never their scores.
- CIDEr-D as COCO computes it (Vedantam, Zitnick and Parikh, CIDEr: Consensus-based Image Description
  Evaluation, 2015): sequences of 1 to 4 tokens weighted by how rare they are among the references; the
  weights of the hypothesis are clipped to those of the reference, and a Gaussian of the difference in length,
  sigma 6, is taken off. A report that is equal to its reference has 10. The value depends on the references
  given as a whole: values of different test sets, and of parts of one, do not compare.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, islice

import numpy as np

from xraygpt.evaluation.language import is_latin
from xraygpt.evaluation.metrics.metric import Array, Metric, mean_over_pairs, with_counts
from xraygpt.evaluation.metrics.tokens import coco_tokens

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


NO_GUESS = 1e-9
NO_MATCH = 1e-15
"""COCO's BLEU adds these so that nothing is divided by zero; kept, since they show in the score of one
report."""
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
    """Return the statistics (N, 10) of N reports.

    They are matches of order 1 to 4, sequences of order 1 to 4 in the hypothesis, its length, the reference's
    length.
    """
    rows = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        expected, found = tokenize(reference), tokenize(hypothesis)
        orders = range(1, ORDERS + 1)
        matches = [(count_ngrams(expected, n) & count_ngrams(found, n)).total() for n in orders]
        guesses = [max(0, len(found) - n + 1) for n in orders]
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
        score = 100 * np.exp(logarithm + brevity)
    result: Array = np.where(matches.any(axis=-1) & guesses.all(axis=-1), score, 0.0)
    return result


CIDER_SIGMA = 6.0
CIDER_SCALE = 10.0


def cider_d_values(references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
    """Return the CIDEr-D of each report; document frequencies are those of all references given."""
    expected = [coco_tokens(text) for text in references]
    found = [coco_tokens(text) for text in hypotheses]
    values = [0.0] * len(expected)
    for order in range(1, ORDERS + 1):
        counts = [count_ngrams(tokens, order) for tokens in expected]
        documents = Counter(chain.from_iterable(counts))
        rarity = {ngram: math.log(len(counts) / number) for ngram, number in documents.items()}
        unseen = math.log(len(counts)) if counts else 0.0
        for index, (count, tokens) in enumerate(zip(counts, found, strict=True)):
            of_reference, of_hypothesis = (
                {ngram: number * rarity.get(ngram, unseen) for ngram, number in ngrams.items()}
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
        equals=f"rouge_score 0.1.2, use_stemmer=False: mean over the reports of the F1 of rouge{suffix}; "
        "reports in other scripts than the Latin one by their words or, where there are no spaces, "
        "characters",
        statistics=mean_over_pairs(value),
    )


ROUGE = (_rouge("1", partial(rouge_n, order=1)), _rouge("2", partial(rouge_n, order=2)), _rouge("L", rouge_l))
_COCO_BLEU_STATISTICS = partial(bleu_statistics, tokenize=coco_tokens)
"""One object, so that whoever scores all four orders can count once."""
BLEU = tuple(
    Metric(
        name=f"bleu_{order}",
        title=f"BLEU-{order}",
        equals=f"pycocoevalcap 1.2, Bleu({ORDERS}), reference length 'closest', tokens of its PTBTokenizer: "
        f"BLEU-{order} of the corpus, 0 to 1",
        statistics=_COCO_BLEU_STATISTICS,
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
CIDER_D = Metric(
    name="cider_d",
    title="CIDEr-D",
    equals="pycocoevalcap 1.2, Cider (n 4, sigma 6, document frequencies of the references given, times 10), "
    "tokens of its PTBTokenizer: mean over the reports, 0 to 10",
    statistics=lambda references, hypotheses: with_counts(cider_d_values(references, hypotheses)),
    highest=CIDER_SCALE,
)
