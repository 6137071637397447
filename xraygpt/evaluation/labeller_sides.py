"""Find the side of the body that a sentence gives for each of its terms."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from xraygpt.evaluation.labeller_lexicon import Term

NOT_A_SIDE = r"(?! (?:atri|ventric|heart|main))"
SIDE = re.compile(
    r"(?P<bilateral>\bbilateral|\bbibasilar|\bbibasal|\bbiapical|\bboth\b|\bbases\b|"
    r"\bleft and (?:\w+ )?right\b|\bright and (?:\w+ )?left\b)"
    rf"|(?P<left>\bleft\b{NOT_A_SIDE}|\blingul)|(?P<right>\bright\b{NOT_A_SIDE}|\bmiddle lobe\b)"
)
NEXT_THING = re.compile(
    r",|\b(?:and|or|with|versus|vs|may|could|might|represent\w*|reflect\w*|consistent|compatible|likely)\b"
)
"""Between two terms: what stands in front of it tells of the first, what stands behind of the second."""
JOINT = re.compile(
    r"(?:[\s,/]|\b(?:and|or|with|versus|vs|small|mild|minimal|associated|adjacent|residual|probable|pleural|subsegmental)\b)*"
    r"|.*\b(?:represent\w*|reflect\w*|consistent with|compatible with|suggest\w*|due to|likely)\b.*"
)
"""What joins a term to the one before: they are in the same place."""
WITHOUT_SIDE = ("Cardiomegaly", "Enlarged Cardiomediastinum")


def find_sides(sentence: str, terms: Sequence[Term]) -> list[str]:
    """Return ``left``, ``right``, ``bilateral`` or "" for each of a sentence's terms.

    A side belongs to the term that it stands before ('left pleural effusion') or, failing that, behind
    ('effusion on the left'); a term joined to the one before, by 'and' or 'may represent', shares its side.
    """
    marks = list(SIDE.finditer(sentence))
    if not marks or not terms:
        return [""] * len(terms)
    groups = _touching(terms)
    cuts = [0, *(_cut(sentence, first, second) for first, second in pairwise(groups)), len(sentence)]
    sides: list[str] = []
    side, last_end = "", -1
    for group, (start, end) in zip(groups, pairwise(cuts), strict=True):
        own = _side(marks, start, group[0].start) or _side(marks, group[-1].end, end)
        joined = last_end >= 0 and JOINT.fullmatch(sentence, last_end, group[0].start)
        side, last_end = own or (side if joined else ""), group[-1].end
        sides += ["" if term.label in WITHOUT_SIDE else side for term in group]
    return sides


def _touching(terms: Iterable[Term]) -> list[list[Term]]:
    """Put terms in the same or in adjacent words together: hydropneumothorax, nodular opacity."""
    groups: list[list[Term]] = []
    for term in terms:
        if groups and term.start <= groups[-1][-1].end + 1:
            groups[-1].append(term)
        else:
            groups.append([term])
    return groups


def _cut(sentence: str, first: Sequence[Term], second: Sequence[Term]) -> int:
    found = NEXT_THING.search(sentence, first[-1].end, second[0].start)
    return found.start() if found else first[-1].end


def _side(marks: Iterable[re.Match[str]], start: int, end: int) -> str:
    found = {str(mark.lastgroup) for mark in marks if start <= mark.start() and mark.end() <= end}
    if len(found) > 1:
        return "bilateral"
    return found.pop() if found else ""
