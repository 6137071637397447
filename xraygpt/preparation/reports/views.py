"""Take out of a sentence which views were taken."""

from __future__ import annotations

import re

from xraygpt.evaluation.priors import MARK
from xraygpt.preparation.reports.wording import CUT, Steps, close_cuts, rewriter, says_something

_VIEW = (
    r"(?:PA|AP|posteroanterior|anteroposterior|frontal|lateral|decubitus|lordotic|oblique|swimmer'?s"
    r"|cross-?table|portable|supine|upright|erect|semi-?upright|semi-?erect)"
)
_PICTURE = (
    r"(?:views?|projections?|radiographs?|films?|images?|x-?rays?|x-XXXX|exam(?:ination)?s?|technique|study"
    r"|studies)"
)
_VIEWS = (
    r"(?:(?:the|a|an|both|single|apical|one|two|three|left|right|chest)\s+)*"
    rf"{_VIEW}(?:(?:\s+|,\s*|\s+and\s+|/)(?:the |apical |chest |left |right )?{_VIEW})*"
    rf"(?:\s+chest)?\s+{_PICTURE}"
)
"""The frontal and lateral views."""
_MENTION = re.compile(
    rf"\b{_VIEWS}\b|^{_VIEW} chest\b"
    rf"|\b{_VIEW}(?:,? (?:and )?(?:chest )?{_VIEW})+\b(?! (?:wall|abd|soft|aspect|rib|r\b))"
    r"|\b(?:\d|single|one|two|three|four)[ -](?:views?|images?|films?|radiographs?)\b"
    r"|\bexamination consists of\b|^(?:portable )?chest (?:radiograph|x-ray|film)s?\.?$",
    re.IGNORECASE,
)
_VIEW_WORDS = re.compile(
    rf"\b(?:{_VIEW}|{_PICTURE}|{MARK}|single|one|two|three|four|obtained|performed|submitted|provided|available"
    r"|reviewed|review|acquired|presented|taken|consists?|total|cassettes|apical|time|interpretation"
    r"|interpreted|received|evaluated|following|sternum|inches)\b",
    re.IGNORECASE,
)
"""Words that, with those of anatomy and grammar, tell of nothing but views."""
_SEEN = (
    r"(?:seen|noted|visuali[sz]ed|identified|demonstrated|appreciated|evaluated|located|evident|visible|apparent"
    r"|present|projecting)"
)
_SHOW = r"(?:shows?|demonstrates?|reveals?)"


def _is(match: re.Match[str]) -> str:
    """Leave "the lungs are clear" of "views show the lungs to be clear"."""
    return f"{CUT}{match['what']} {'are' if match['what'].endswith('s') else 'is'} "


SUBJECTS: Steps = {
    rf"^(?:{_VIEWS}|{_VIEW}[\w ]*)[\w ]*? {_SHOW} (?P<what>(?:the )?[^,;]*?) to be ": _is,
    r"^(unremarkable|normal|negative) (?:\d|two|three)[ -]views? of the chest": r"\1 chest",
    rf"^{_VIEW} (?:view|projection) [\w ]+, (?=low\b|small\b|there\b)": "",
    rf"^(?:frontal|portable|{_VIEWS})\b[^,;]*? with ((?:overlying )?(?:external )?[^,;]*?leads) "
    rf"{_SHOW} ": rf"{CUT}\1; ",
    rf"^(?:{_VIEWS}|{_VIEW} and {_VIEW} {_PICTURE}|(?:frontal|portable)\b[^,;]*?{_PICTURE})\b[^,;]*? "
    rf"{_SHOW}(?: that)? ": CUT,
    rf"^(?:on|in) {_VIEWS},? ": "",
}
"""Frontal and lateral views of the chest show ..."""

PLACES: Steps = {
    rf",? (?:given the low lung volumes|for low lung volumes) an?d? {_VIEW}[\w ]* technique": CUT
    + "for technique",
    rf"\b(accentuated) (?:by|due to) (?:the )?{_VIEWS}(?: technique| positioning)?": r"\1 by technique",
    r",? ?(?:but |however |and )?(?:(?:which|that|it) )?(?:is |are |was )?"
    rf"\b(?:not|no (?=discrete|correlate)) [^,;]*?(?:on|in) {_VIEWS}(?: only)?": CUT,
    rf"\b(is|are|was|were) (?:only |best |better )?({_SEEN}) (?:both )?(?:on|in) "
    rf"{_VIEWS}(?: only)?": rf"\1 \2{CUT}",
    rf",? ?(?:(?:which is|that is|only|best|better|well|(?:{MARK} )?{_SEEN}(?: {MARK})?"
    rf"|as|primarily|mainly|also|both) )*\b(?:on|in|by) {_VIEWS}(?: only)?": CUT,
    rf",? however,? further evaluation with .*{_VIEWS}.*|,? as evidenced by .*": CUT,
    r",? ?\b(?:given|allowing for|due to|secondary to|for|on) (?:the )?"
    rf"{_VIEWS}(?: technique| positioning)?": CUT,
    rf"\(\s*{_VIEWS}\s*\)|(?<! of)(?<! from) the {_VIEW} view(?=\.?$)": CUT,
}
""""An opacity on the lateral view", "for AP technique"; what one view does not show is no finding."""

_UNSEEN = re.compile(
    rf",? (?:but |and |(?:which|that) (?:is|are) )?not (?:[\w-]+[ -])?{_SEEN} (?:on|in) {_VIEWS}(?: only)?",
    re.IGNORECASE,
)
_SEEN_AT_ALL = re.compile(rf"^There (?:is|are|ha(?:s|ve) been)\b|(?<!not )\b{_SEEN}\b", re.IGNORECASE)
_without_views = rewriter(SUBJECTS, PLACES)


def mentions_view(sentence: str) -> bool:
    """Tell whether a sentence names a view: "PA and lateral views of the chest were obtained."."""
    return _MENTION.search(sentence) is not None


def forget_unseen(sentence: str) -> str:
    """Return a sentence without asides on views that do not show what another one does; they deny nothing.

    >>> forget_unseen("There is a nodule seen on the frontal view, not identified on the lateral view.")
    'There is a nodule seen on the frontal view.'
    """
    aside = _UNSEEN.search(sentence)
    seen = aside is not None and _SEEN_AT_ALL.search(sentence[: aside.start()])
    return _UNSEEN.sub("", sentence) if seen else sentence


def remove_view(sentence: str) -> str:
    """Return the sentence without its views, "" if it says nothing else.

    >>> remove_view("Frontal and lateral views of the chest show clear lungs.")
    'Clear lungs.'
    >>> remove_view("AP view.")
    ''
    """
    if not says_something(_VIEW_WORDS.sub(" ", sentence)):
        return ""
    text = _without_views(sentence)
    return close_cuts(text) if text != sentence else sentence
