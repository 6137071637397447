"""How often a generated report contradicts itself: it asserts what it denies, or changes the side.

``docs/metrics.md`` has the rules, and how often radiologists' own reports are called contradictory, which
bounds the false alarms. Uncertain mentions contradict nothing.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from xraygpt.evaluation.labeller import CACHED_TEXTS, SIDES, Mention, Status, find_mentions, sides_of
from xraygpt.evaluation.labeller_lexicon import SUPPORT_DEVICES
from xraygpt.evaluation.metrics.metric import error_rate, mean_over_generated
from xraygpt.evaluation.priors import MARK
from xraygpt.evaluation.sentences import split_report

IMPRESSION = re.compile(r"(?i:\b(?:impression|conclusion|opinion)s?\s*:)")
MIXED_CLASSES = frozenset(
    {"Lung Opacity", "Lung Lesion", "Edema", "Pleural Other", "Fracture", "Enlarged Cardiomediastinum"}
)
"""Of these one thing may be there and another not: markings but no infiltrate, congestion but no edema."""
MANY_AT_ONCE = frozenset({SUPPORT_DEVICES})
"""One on the left, another on the right, a third removed: nothing is contradicted."""
ACUTE_CLASSES = ("Consolidation", "Pneumonia", "Pneumothorax")
NOTHING_ACUTE = re.compile(
    r"\bno (?:(?:radiographic|evidence|definite|findings?|of|an) )*(?:acute|active)(?: (?:or|and) active)? "
    r"(?:cardio-?pulmonary|cardiothoracic|pulmonary|intrathoracic|chest|disease|findings|abnormalit)"
)
STEM = 5
"""Letters by which a word of a mixed class is known: "opacity" and "opacities"."""
LIMITED_DENIAL = re.compile(
    r"(?i)\b(?:acute|new|large|significant\w*|definite\w*|suspicious|other|otherwise|additional|further|change\w*|"
    r"increas\w*|developing|residual|remaining|more|overt|frank|gross\w*|sizable|tension|displaced)\b"
    rf"|{MARK}"
)
"""In a denial, which may then be of less than the class; so may one of which a word was taken away."""
LIMITED_TERM = re.compile(
    r"(?i)\b(?:focal|lobar|confluent|dense|segmental|alveolar|cavitary|laryngeal|\w+ed)(?: \w+){0,2} $"
)
"""Directly in front of what is denied: 'no focal consolidation', 'no calcified nodule'."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two mentions of a class that cannot both be right."""

    asserted: Mention
    other: Mention
    """The denial, or the assertion of the other side."""


@lru_cache(maxsize=CACHED_TEXTS)
def find_contradictions(text: str) -> tuple[Contradiction, ...]:
    """Return what a report says against itself, at most one contradiction for each class."""
    first: dict[str, Contradiction] = {}
    for contradiction in (*_denied(text), *_changed_sides(text)):
        first.setdefault(contradiction.asserted.label, contradiction)
    return tuple(first.values())


class _What(NamedTuple):
    """What is asserted or denied."""

    label: str
    thing: str
    """The beginning of the word, for classes that gather different things."""
    status: Status
    side: str


def _denied(text: str) -> Iterator[Contradiction]:
    said = _statements(text)
    for what, other in product(said, said):
        if (
            (what.status, other.status) == (Status.POSITIVE, Status.NEGATIVE)
            and (what.label, what.thing) == (other.label, other.thing)
            and SIDES[other.side] <= SIDES[what.side]
        ):
            places = product(said[what], said[other])
            yield from (Contradiction(said[what][a], said[other][b]) for a, b in places if a != b)


def _statements(text: str) -> dict[_What, dict[int, Mention]]:
    """Return what a report with a finding says, each with the first two sentences that say it.

    Two are enough to find one that is not the sentence of a statement against it, and they bound the work
    on a report that repeats itself endlessly.
    """
    statements: dict[_What, dict[int, Mention]] = {}
    if not _asserted(text):
        return statements
    sentences = list(split_report(text))
    starts = [sentence.places[0] for sentence in sentences]
    nothing_acute = (
        Mention(label, Status.NEGATIVE, "", sentence.places[found.start()], sentence.places[found.end()])
        for sentence in sentences
        if (found := NOTHING_ACUTE.search(sentence.text))
        for label in ACUTE_CLASSES
    )
    for mention in (*find_mentions(text), *nothing_acute):
        place = bisect(starts, mention.start) - 1
        before = text[starts[place] : mention.start]
        limited = LIMITED_DENIAL.search(before) or LIMITED_TERM.search(before)
        if mention.label in MANY_AT_ONCE or (mention.status == Status.NEGATIVE and limited):
            continue
        thing = text[mention.start : mention.end].lower()[:STEM] if mention.label in MIXED_CLASSES else ""
        said = statements.setdefault(_What(mention.label, thing, mention.status, mention.side), {})
        if len(said) < 2:
            said.setdefault(place, mention)
    return statements


def _changed_sides(text: str) -> Iterator[Contradiction]:
    """Yield classes whose only side in the findings is not the only one in the impression."""
    if header := IMPRESSION.search(text):
        findings = [m for m in _asserted(text) if m.start < header.start()]
        impression = [m for m in _asserted(text) if m.start >= header.end()]
        concluded = sides_of(impression)
        for label, side in sides_of(findings).items():
            other = concluded.get(label, frozenset())
            if len(side) == len(other) == 1 and side != other and label not in MANY_AT_ONCE:
                parts = findings, impression
                yield Contradiction(*(next(m for m in p if m.label == label and m.side) for p in parts))


def _asserted(text: str) -> list[Mention]:
    return [mention for mention in find_mentions(text) if mention.status == Status.POSITIVE]


CONTRADICTIONS = error_rate(
    name="contradictions",
    title="contradictory reports",
    equals="share of generated reports of which a sentence asserts a CheXpert class that another denies, or "
    "the impression puts it on the other side than the findings, by this project's rule labeller",
    statistics=mean_over_generated(lambda text: bool(find_contradictions(text))),
    english_only=True,
)
