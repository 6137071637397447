"""Decide what a sentence says of its terms: asserted, denied or left open, and on which side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise

from xraygpt.evaluation.labeller_lexicon import SUPPORT_DEVICES, Term

BE = r"(?:is|are|was|were|has|have|had)"
SEEN = (
    r"(?:seen|identified|present|visuali[sz]ed|evident|appreciated|demonstrated|noted|detected|found|"
    r"apparent|visible|suspected|observed)"
)

NOT_A_NEGATION = re.compile(
    r"\b(?:no|without|not)\b"
    r"(?: (?:any|definite|significant|interval|appreciable|substantial|new|evidence of|\w+ly|xxxx|or))*"
    r" (?:changed?|increased?|decreased?|improve(?:d|ment)|worsening|progression|difference)\b"
    r"|\bnot only\b|\bno doubt\b"
    rf"|\bnot (?:\w+ly )?{SEEN} (?:previously|before|(?:on|in) (?:the )?(?:prior|previous|earlier|old)\b)"
    r"|\b(?:not|almost|near(?:ly)?|partial(?:ly)?|incomplete(?:ly)?|largely|mostly|somewhat"
    r"|(?:slight|mild|minimal|moderate|marked|significant|substantial|considerab)(?:ly|le)?)"
    r"(?:[ -](?:yet|entirely|fully|complete(?:ly)?|interval))* (?:resol\w+(?: of)?|cleared)\b"
)
"""A change is denied, not the finding: 'no interval change in the effusion', 'not seen on the prior'."""

DOUBT = "|".join(
    (
        r"\b(?:may|might|could|can)\b(?! be seen)",
        r"\bpossib(?:le|ly|ility)\b|\bperhaps\b|\bquestion(?:able|ed)?\b|\bequivocal\b",
        r"\bpotential(?:ly)?\b|\bdoubtful\b|\bpresum\w+|\bunclear\b|\bborderline\b",
        r"\b(?:cannot|can ?not|not) (?:be )?(?:\w+ )?(?:exclude|rule out)",
        r"\brule out\b|\br/o\b|\bexclude\b|\bdifficult to exclude\b",
        r"\bversus\b|\bvs\b|\beither\b|\bdifferential\b",
        r"\bsuspect(?:ed)?\b|\bif (?:any|there is)\b|\bless likely\b|\bunlikely\b|\bfavor",
    )
)
LINK = r"\bsuggest\w*|\bsuspicio(?:us|n) (?:for|of)|\bconcern(?:ing)?\b|\bworrisome for"
"""Doubt what follows ('concerning for pneumonia') or pass a denial on ('no opacity to suggest pneumonia')."""
DENIAL = "|".join(
    (
        rf"\b(?:no|without|nor|neither|none|denies)\b|\bnot\b(?! (?:been |be )?(?:\w+ly )?{SEEN})",
        r"(?<!has )(?<!have )(?<!been )(?<!is )(?<!are )\b(?:absent|resolved)\b",
        r"\b(?:negative for|free (?:of|from)|clear of|rather than|failed to)\b",
        r"\b(?:absence|lack|resolution|removal) of\b",
    )
)
BEFORE = re.compile(rf"(?P<doubt>{DOUBT})|(?P<link>{LINK})|(?P<denial>{DENIAL})")

DOUBT_AFTER = "|".join(
    (
        r"\b(?:cannot|can ?not|could not|may not)\b[^,;]{0,30}\b(?:excluded|ruled out)",
        r"\bnot (?:\w+ )?(?:excluded|ruled out)|\bto be excluded|\bdifficult to exclude",
        r"\b(?:is|are|remains?) (?:\w+ )?(?:possible|a possibility|questioned|considered)|\bsuspected\b",
        r"\b(?:is|are|remains?) (?:\w+ ){0,2}consideration|\bshould be considered",
        r"\b(?:could|may|might) also\b|\bmay be (?:present|considered)",
        r"\bdifferential\b|\bimpossible\b|\bpresumed\b|\bif (?:any|present)\b|\bless likely|\bunlikely",
    )
)
DENIAL_AFTER = "|".join(
    (
        rf"(?:\w+ly )?(?:not|no longer) (?:been |be )?(?:\w+ly )?(?:{SEEN}|enlarged|widened)",
        r"\b(?:been |interval )?removed\b|\bresolved\b|\bcleared\b|\b(?:is|are) absent\b",
        r"\b(?:excluded|ruled out)\b",
        r"\bwithin (?:normal limits|limits of normal)|: ?(?:no|none|absent|negative)\b",
    )
)
AFTER = re.compile(
    rf"(?:\b{BE} (?:(?:also|now|since) )*(?:been )?)?(?:(?P<doubt>{DOUBT_AFTER})|(?P<denial>{DENIAL_AFTER}))"
)
AFTER_DEVICE = re.compile(
    rf"(?:\b{BE} (?:(?:also|now|since) )*(?:been )?)?(?:(?P<doubt>\bquestioned\b)"
    r"|(?P<denial>(?:interval |since )?removed\b|\bno longer\b|: ?(?:no|none|absent)\b))"
)
"""Of a device only its removal: 'the tip of the tube is not seen' does not deny the tube."""
ALTERNATIVE = re.compile(r"(?:(?!,| in | at )[^;]){0,25}\b(?:versus|vs)\b")
"""Behind a term: it is one of two readings."""
ASIDE = re.compile(r"\([^)]*\)|\bxxx+\b|\b_{2,}|\b[\d/-]+\b")
OTHER_SUBJECT = re.compile(r",[^,]*\w[^,]*$")
"""Between a term and a cue behind it, without what is an aside: 'effusion[, pneumothorax] has resolved'."""
OTHER_SUBJECT_OF_CLAUSE = re.compile(r"(?:,| and )[^,]*\w[^,]*$")
"""The same where the term holds a verb: 'heart is enlarged[ and vascularity] is within normal limits'."""
VERB = re.compile(rf"\b{BE}\b")
LIST = re.compile(r"\bor\b|\band\b.*\b(?:are|were|have)\b")
"""From a term to the end of a cue that is said of all before: 'effusion[, edema and scars are not seen]'."""

CLAUSE = (
    r"\b(?:but|however|although|though|except|other than|apart from|aside from|despite|otherwise|"
    r"there (?:is|are|has|have|remains?))\b"
)
AMOUNT = r"(?:small|mild|moderate|minimal|stable|unchanged|persistent|residual|trace|tiny)"
DOUBT_END = re.compile(CLAUSE)
DENIAL_END = re.compile(
    rf"{CLAUSE}|\b(?:which|likely|probabl[ey]|due to|secondary to|because)\b"
    rf"|(?:\b(?:is|are) (?:\w+ )?{SEEN}|\b(?:enlarged|widened|normal))(?:,| and\b)(?!.*\b(?:or|nor)\b)"
    rf"|(?:,| and) (?:an? )?{AMOUNT}\b(?!.*\b(?:or|nor)\b)"  # not in a list
    rf"|\bwith (?:an? )?(?:{AMOUNT}|bilateral|left|right)\b"
)
GOES_ON = re.compile(
    r"[^,;]{0,20} (?:is|are|has|have|remains?)\b[^,;]{0,20}"
    r"(?:unchanged|stable|persist|increas|decreas|improv|worse|larger|smaller)"
    r"|[^,;]{0,20} (?:persists?|remains?)\b"
)
"""Behind a term: it is there; 'no edema, the effusion is unchanged'."""
STATEMENT = re.compile(
    rf"\b(?:{BE}|may|might|could|but|however|which|although|consistent|compatible|likely)\b"
    r"|\brepresent|\bsuggest"
)
"""What a cue behind a term cannot reach back over."""

NOT_SAID_BEFORE = re.compile(
    r"\b(?:history|h/o)(?: of)?(?: \w+){0,3} $"
    r"|\b(?:sensitiv\w+ (?:in|for|to)|mistaken for|evaluat\w+ (?:for|of)|(?:to|please) (?:assess|evaluate))"
    r"(?: [\w-]+){0,6} $"
)
NOT_SAID_AFTER = re.compile(
    r" (?:\w+ ){0,3}may not be (?:\w+ )?(?:seen|demonstrated|visible|visuali[sz]ed|detected|apparent|evident)"
)
"""The past, a question, or what the method could not show: 'fractures may not be seen on radiographs'."""


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


class Status(IntEnum):
    """What a report says of a class, in CheXpert's coding; a class that it does not mention has none."""

    POSITIVE = 1
    NEGATIVE = 0
    UNCERTAIN = -1


def mask_changes(sentence: str) -> str:
    """Blank out negations of a change, which deny no finding; the length stays."""
    return NOT_A_NEGATION.sub(lambda match: "#" * len(match.group()), sentence)


def judge(sentence: str, term: Term) -> Status | None:
    """Return what a sentence (see `mask_changes`) says of the term; None where it says nothing of now."""
    if NOT_SAID_BEFORE.search(sentence, 0, term.start) or NOT_SAID_AFTER.match(sentence, term.end):
        return None
    if term.kind != "finding":
        return Status.UNCERTAIN if term.kind == "borderline" else Status.NEGATIVE
    before = _status_before(sentence, term)
    after = None if before == Status.NEGATIVE else _status_after(sentence, term)
    return next((status for status in (after, before) if status is not None), Status.POSITIVE)


def _status_before(sentence: str, term: Term) -> Status | None:
    """Return what the nearest cue in front of the term, or within it, makes of it."""
    status = None
    for cue in reversed(list(BEFORE.finditer(sentence, 0, term.end))):
        if cue["denial"]:
            ended = DENIAL_END.search(sentence, cue.end(), term.start)
            another = "," in sentence[cue.end() : term.start] and GOES_ON.match(sentence, term.end)
            return status if ended or another else Status.NEGATIVE
        if DOUBT_END.search(sentence, cue.end(), term.start):
            return status
        status = Status.UNCERTAIN
        if cue["doubt"]:
            return status
    return status


def _status_after(sentence: str, term: Term) -> Status | None:
    if ALTERNATIVE.match(sentence, term.end):
        return Status.UNCERTAIN
    pattern = AFTER_DEVICE if term.label == SUPPORT_DEVICES else AFTER
    cue = pattern.search(sentence, term.end)
    if (
        cue is None
        or STATEMENT.search(sentence, term.end, cue.start())
        or _has_other_subject(sentence, term, cue)
    ):
        return None
    return Status.UNCERTAIN if cue["doubt"] else Status.NEGATIVE


def _has_other_subject(sentence: str, term: Term, cue: re.Match[str]) -> bool:
    """Tell whether a cue behind a term is of something else: "the heart is enlarged, edema has resolved".

    Of "edema, effusion and atelectasis are not seen" it is said of all.
    """
    between = ASIDE.sub("", sentence[term.end : cue.start()])
    if VERB.search(sentence, term.start, term.end):
        return OTHER_SUBJECT_OF_CLAUSE.search(between) is not None
    if OTHER_SUBJECT.search(between) is None:
        return False
    return LIST.search(sentence, term.end, cue.end()) is None


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


def _touching(terms: Sequence[Term]) -> list[list[Term]]:
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


def _side(marks: Sequence[re.Match[str]], start: int, end: int) -> str:
    found = {str(mark.lastgroup) for mark in marks if start <= mark.start() and mark.end() <= end}
    if len(found) > 1:
        return "bilateral"
    return found.pop() if found else ""
