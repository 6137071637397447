"""Decide whether a sentence asserts, denies or leaves open what one of its terms names."""

from __future__ import annotations

import re
from enum import IntEnum

from xraygpt.evaluation import labeller_cues as cues
from xraygpt.evaluation.labeller_lexicon import SUPPORT_DEVICES, Term


class Status(IntEnum):
    """What a report says of a class, in CheXpert's coding; a class that it does not mention has none."""

    POSITIVE = 1
    NEGATIVE = 0
    UNCERTAIN = -1


def mask_changes(sentence: str) -> str:
    """Blank out negations of a change, which deny no finding; the length stays."""
    return cues.NOT_A_NEGATION.sub(lambda match: "#" * len(match.group()), sentence)


def judge(sentence: str, term: Term) -> Status | None:
    """Return what a sentence (see `mask_changes`) says of the term; None where it says nothing of now."""
    if cues.NOT_SAID_BEFORE.search(sentence, 0, term.start) or cues.NOT_SAID_AFTER.match(sentence, term.end):
        return None
    if term.kind != "finding":
        return Status.UNCERTAIN if term.kind == "borderline" else Status.NEGATIVE
    before = _status_before(sentence, term)
    if before == Status.NEGATIVE:
        return before
    after = _status_after(sentence, term)
    if after is not None:
        return after
    return Status.POSITIVE if before is None else before


def _status_before(sentence: str, term: Term) -> Status | None:
    """What the nearest cue in front of the term, or within it, makes of it."""
    status = None
    for cue in reversed(list(cues.BEFORE.finditer(sentence, 0, term.end))):
        if cue["denial"]:
            return Status.NEGATIVE if _is_denied(sentence, cue.end(), term) else status
        if cues.DOUBT_END.search(sentence, cue.end(), term.start):
            return status
        status = Status.UNCERTAIN
        if cue["doubt"]:
            return status
    return status


def _is_denied(sentence: str, cue_end: int, term: Term) -> bool:
    if cues.DENIAL_END.search(sentence, cue_end, term.start):
        return False
    return "," not in sentence[cue_end : term.start] or not cues.GOES_ON.match(sentence, term.end)


def _status_after(sentence: str, term: Term) -> Status | None:
    if cues.ALTERNATIVE.match(sentence, term.end):
        return Status.UNCERTAIN
    pattern = cues.AFTER_DEVICE if term.label == SUPPORT_DEVICES else cues.AFTER
    cue = pattern.search(sentence, term.end)
    if cue is None or cues.STATEMENT.search(sentence, term.end, cue.start()):
        return None
    if _has_other_subject(sentence, term, cue):
        return None
    return Status.UNCERTAIN if cue["doubt"] else Status.NEGATIVE


def _has_other_subject(sentence: str, term: Term, cue: re.Match[str]) -> bool:
    """Whether a cue behind a term is said of something else: "the heart is enlarged, edema has resolved".

    Of "edema, effusion and atelectasis are not seen" it is said of all.
    """
    between = cues.ASIDE.sub("", sentence[term.end : cue.start()])
    if cues.VERB.search(sentence, term.start, term.end):
        return cues.OTHER_SUBJECT_OF_CLAUSE.search(between) is not None
    if cues.OTHER_SUBJECT.search(between) is None:
        return False
    return cues.LIST.search(sentence, term.end, cue.end()) is None
