"""Counts of word sequences, for BLEU and CIDEr-D."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice

Ngram = tuple[str, ...]


def count_ngrams(tokens: Sequence[str], order: int) -> Counter[Ngram]:
    """Return how often each sequence of ``order`` tokens occurs."""
    return Counter(zip(*(islice(tokens, start, None) for start in range(order)), strict=False))
