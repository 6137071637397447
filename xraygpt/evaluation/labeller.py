"""Label a chest report with the 14 CheXpert classes by rules: negation, uncertainty and side, no weights.

The classes, their coding and the way mentions are put together follow the CheXpert labeller (Irvin et al.
2019, https://arxiv.org/abs/1901.07031); the rules are this project's own. How well they do, and where they
fail: ``docs/labeller.md``. The phantoms' own, finer labels are in ``xraygpt.evaluation.metrics.phantom``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from xraygpt.evaluation.labeller_context import NONE_SEEN, Status, find_sides, judge
from xraygpt.evaluation.labeller_lexicon import (
    CLASSES,
    NO_FINDING,
    SUPPORT_DEVICES,
    correct_typing,
    find_terms,
)
from xraygpt.evaluation.priors import tells_only_of_prior
from xraygpt.evaluation.sentences import split_report

__all__ = [
    "CLASSES",
    "Mention",
    "Status",
    "find_mentions",
    "finding_sides",
    "label_report",
    "positive_findings",
    "sides_of",
]

CACHED_TEXTS = 16384
"""References and generated reports of a test split of 8,000 images, about 2 KiB each. What is remembered of
them is shared: do not change it."""
SIDES = {"left": {"left"}, "right": {"right"}, "bilateral": {"left", "right"}, "": set[str]()}


@dataclass(frozen=True, slots=True)
class Mention:
    """One place where a report says something about a class."""

    label: str
    """One of `CLASSES`; never "No Finding", which is said of whole reports."""
    status: Status
    side: str
    """``left``, ``right``, ``bilateral`` or "" where none is said."""
    start: int
    """Where the words begin in the text, and (`end`) behind which character they end."""
    end: int


@lru_cache(maxsize=CACHED_TEXTS)
def find_mentions(text: str) -> tuple[Mention, ...]:
    """Return what a report says about the classes, in the order of the text.

    Sections that do not describe the images (indication, history, comparison, technique, ...) are passed
    over where the text has headers for them.
    """
    mentions: list[Mention] = []
    last: list[Mention] = []
    for sentence in map(correct_typing, split_report(text)):
        if tells_only_of_prior(sentence.text):
            continue
        if not (terms := find_terms(sentence.text)):
            if NONE_SEEN.fullmatch(sentence.text):  # "Evaluate for pneumothorax. None seen."
                mentions = [mention for mention in mentions if mention not in last]
                mentions += [replace(mention, status=Status.NEGATIVE) for mention in last]
            continue
        last = []
        sides = find_sides(sentence.text, terms)
        for term, status, side in zip(terms, judge(sentence.text, terms), sides, strict=True):
            start, end = sentence.places[term.start], sentence.places[term.end]
            last.append(Mention(term.label, Status.NEGATIVE if status is None else status, side, start, end))
            if status is not None:
                mentions.append(last[-1])
    return tuple(mentions)


def sides_of(mentions: Iterable[Mention]) -> dict[str, frozenset[str]]:
    """Return `finding_sides` of a report whose mentions are known."""
    sides: dict[str, frozenset[str]] = {}
    for mention in mentions:
        if mention.status == Status.POSITIVE:
            sides[mention.label] = sides.get(mention.label, frozenset()) | SIDES[mention.side]
    return sides


@lru_cache(maxsize=CACHED_TEXTS)
def label_report(text: str) -> Mapping[str, Status]:
    """Return the status of each class that the report mentions, in the order of `CLASSES`.

    Of several mentions of a class a positive one counts before an uncertain one, and that before a negative
    one. "No Finding" is positive, as CheXpert has it, where no class but Support Devices is positive or
    uncertain; a text without a word has no label at all.
    """
    if not text.strip():
        return {}
    said: dict[str, set[Status]] = {}
    for mention in find_mentions(text):
        said.setdefault(mention.label, set()).add(mention.status)
    strongest = (Status.POSITIVE, Status.UNCERTAIN, Status.NEGATIVE)
    labels = {label: next(s for s in strongest if s in statuses) for label, statuses in said.items()}
    if all(s == Status.NEGATIVE for label, s in labels.items() if label != SUPPORT_DEVICES):
        labels[NO_FINDING] = Status.POSITIVE
    return {label: labels[label] for label in CLASSES if label in labels}


def positive_findings(text: str) -> frozenset[str]:
    """Return the classes but "No Finding" that the report asserts."""
    return frozenset(finding_sides(text))


@lru_cache(maxsize=CACHED_TEXTS)
def finding_sides(text: str) -> Mapping[str, frozenset[str]]:
    """Return on which sides (``left``, ``right``) each asserted class is said to be; often on none."""
    return sides_of(find_mentions(text))
