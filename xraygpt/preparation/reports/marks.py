"""Take the marks of de-identification out of a sentence, with the words that make no sense without them.

Collections replace names, dates and places by a mark; the program that did so for OpenI has taken many
common words for such: ``lymph XXXX``, ``The XXXX are normal``. Where only one word fits, it is put back; a
mark for a mere attribute goes alone; where a noun or a verb is lost, the phrase or clause goes.
"""

from __future__ import annotations

import re

from xraygpt.evaluation.priors import MARK
from xraygpt.preparation.reports.wording import CUT, Steps, close_cuts, rewriter

_TOKEN = rf"(?:(?<![\w'<>-])(?=[\w'<>-]*{MARK})[\w'<>-]++|\[\*\*[^\]]*+\*\*\])"
"""A word with a mark: ``XXXX``, ``dual-XXXX``, ``XXXX's``."""
_MARKS = rf"(?>{_TOKEN}(?:[ /]*+{_TOKEN})*+)"
"""Marks in a row; never tried in more than one way, so that the time does not explode with their number."""
_NOUN_ENDS = (
    rf"(?=\s*(?:[.,;:)]|$|{CUT})|\s+(?:is|are|was|were|has|have|had|appears?|remains?|and|or|of|in|on|at|with"
    r"|within|without|to|from|by|for|as|than|that|which|there|intact|unremarkable|bilaterally|grossly|normal|clear"
    r"|engorged|unchanged|tips?|overl\w+|project\w*|may|might|could)\b)"
)
"""What follows a mark that stood for a noun."""
_OPACITY = (
    r"(?:opacity|opacities|density|densities|disease|infiltrates?|nodules?|prominence|consolidations?|changes?"
    r"|markings|volumes|atelectasis|thickening|blunting|deformity|deformities|effusions?|granulomas?|edema"
    r"|lungs?|bases?|lobes?|region|elevation|process|calcifications?|lucency|fissure|mediastinum|shadow)"
)
_PLACE = (
    r"(?:the|a|an|both|bilateral|left|right|upper|lower|mid|lateral|medial|anterior|posterior|pulmonary|lung"
    r"|thoracic|cervical|lumbar|surgical|known|prior|recent|chest|hilar|remote|old|acute|right-sided|left-sided"
    r"|this|her|his|visualized|frontal)"
)
_IS = r"(?:is|are|appears?|has|have|remains?)"
_CALLED = re.compile(
    r"\b(?:discuss(?:ed)?|notified|notification|notify|telephoned?|called|call|phoned|paged|communicated"
    r"|informed|questions|Dr|physician|[ap]\.m|acknowledged|certified|opportunity|conveyed|relayed"
    rf"|technologist|addendum|dictated)\b|{MARK}\s*[AP]M\b",
    re.IGNORECASE,
)
"""Sentences that tell whom the radiologist told."""

RESTORED: Steps = {
    rf"\bx-{MARK}": "x-ray",
    rf"\b{MARK}-a-{MARK}(?: {MARK})?": "Port-a-Cath",
    rf"\b(lymph) {MARK}": r"\1 nodes",
    rf"\b((?:left|right|a|lateral|posterior) (?:(?:lateral|posterior) )?(?:costo|cardio)phrenic) {MARK}"
    rf"|\b((?:costo|cardio)phrenic) {MARK}(?= blunting| is\b)": r"\1\2 angle",
    rf"\b((?:costo|cardio)phrenic) {MARK}": r"\1 angles",
    rf"\b(a sternotomy) {MARK}|\b(sternotomy) {MARK}(?= is| fragment)": r"\1\2 wire",
    rf"\b(sternotomy) {MARK}": r"\1 wires",
    rf"\b(aortic) {MARK}": r"\1 arch",
    rf"\b(superior) {MARK} {MARK}": r"\1 vena cava",
    rf"\b((?:epi|peri)cardial fat) {MARK}": r"\1 pad",
    rf"\b(IVC) {MARK}": r"\1 filter",
    rf"\b(bowel) {MARK} (?=pattern)": r"\1 gas ",
    rf"\b(chest) {MARK}(?=,? (?:tip|with|is|in|has|catheter|identified|noted|seen|the distal)\b)": r"\1 port",
    rf"\b(a|an) {MARK}(?= (?:in|on) the (?:left|right) chest\b)": "a port",
    rf"\b(cardiac) {MARK}(?= (?:in|and|with|is|has|are|generator)\b)": r"\1 device",
    rf"\b{MARK}-of-view": "field-of-view",
    rf"\b(no|without|any) {MARK} of\b": r"\1 signs of",
    rf"\b(scattered|some|few) {MARK} of\b": r"\1 areas of",
    rf"\b(note) (?:is )?{MARK} of\b": r"\1 is made of",
    rf"(?:\b{MARK} )?(due )?\bat {MARK}(?= (?:in part|partially|partly)\b)": r"\1at least",
    rf"\b(most|more|less) {MARK}(?= represent| reflect| related| due| secondary| consistent| compatible|,"
    r"| (?:\w+ ){0,2}(?:pneumonia|atelectasis|scar\w*|artifact\w*|edema|infect\w+|effusion|calcified"
    r"|chronic)\b)": r"\1 likely",
    rf"\b(heart size|vascularity|silhouette) {MARK}"
    r"(?= (?:within normal|normal|enlarged|unremarkable)\b)": r"\1 is",
    rf"\b(lungs|contours) {MARK}(?= (?:clear|within normal|normal|unremarkable)\b)": r"\1 are",
    rf"\b(is|are) {MARK} (?=to (?:be|represent)\b)": r"\1 thought ",
    rf"\b(is|are|remains?|stimulator|wires|tube|catheter|line) in {MARK}": r"\1 in place",
}
"""Marks for which there is only one word, or several that mean the same."""


def _second_clause(match: re.Match[str]) -> str:
    """Leave "A is large" of "A is large, and the XXXX are engorged", all of "A and the XXXX are normal"."""
    return "" if re.search(rf"\b{_IS}\b", match.string[: match.start()]) else match.group()


SINGLE: Steps = {
    rf"{MARK}/(?=[a-z])|(?<=[a-z])/{MARK}": "",
    rf"\b(left|right|lower|upper|mid) lung {_MARKS}": r"\1 lung",
    rf"\blung {_MARKS}": "lungs",
    rf"\b(heart|defibrillator|ICD|pacemaker|stimulator|tips?) {_MARKS}{_NOUN_ENDS}": r"\1",
    rf"^{_MARKS} (?:of|onset) ": "",
    rf"\b((?:no|without)(?: \w+){{0,2}} of) {_MARKS}, (?=\w)": r"\1 ",
    rf",? with (?:[\w-]+ )?{_MARKS} of [^,;.]*": CUT,
    rf"^{_MARKS} (?:interval )?change,? |^(?:the|this) appearance {_MARKS} ": CUT,
    rf"\b(?:is|are) {_MARKS} and (?=includes?\b)": "",
    rf"\b(is|are) {_MARKS}(?= (?:the|a|an)\b)": r"\1",
    rf"\bin the (left|right) {_MARKS}{_NOUN_ENDS}": r"on the \1",
    rf"\bin the (left|right) {_TOKEN} {_TOKEN} (?=\w)": r"on the \1, ",
    rf"\b(?:has|have|had)(?: not)? {_MARKS}(?: since\b[^,;]*|{_NOUN_ENDS})": CUT,
    rf"\b(acute|\w+(?:ent|ant|ed|al|ar|ic|y|ous)) (?:and|or) {_MARKS} "
    rf"(?=(?:(?:cardio)?pulmonary |pleural )?(?:{_OPACITY}|abnormalit\w+|findings?)\b)": r"\1 ",
}
"""Words and turns of their own."""

PHRASES: Steps = {
    rf",? ?(?:(?:which|that) )?(?:(?:is|are|appears?) )?{_MARKS} from {_MARKS}": CUT,
    rf"(?: (?:which|that))?(?: (?:may|might|could|can|probably))?(?: {_MARKS})? "
    r"(?:represents?|representing|reflects?|(?:consistent|compatible) with"
    rf"|(?:due|related|secondary) to) (?:[\w-]+ ){{0,2}}{_MARKS}{_NOUN_ENDS}": CUT,
    r",? ?(?:\bmeasuring (?:about |approximately |up to )?)?\(?\b\d[\d.]*(?: ?(?:x|by|-|to) ?\d[\d.]*)* "
    rf"{_MARKS}\)?": CUT,
    r",? ?\b(?:(?:performed|dated|obtained|taken|back|due|secondary|related) )?"
    rf"(?:on|at|dated|from|since|in|of|by|to)(?: Dr\.?)? {_MARKS}(?: ?[ap]\.?m\b\.?| hours| hrs)?"
    rf"{_NOUN_ENDS}": CUT,
    rf"{_MARKS}(?: (?:x|by) {_MARKS})* ?[cm]m\b": CUT,
    rf"\bat {_MARKS}": CUT,
    rf"\b(of|in|over|within) (?:the )?{_MARKS} and (?:the )?(?=\w+ing\b)": r"\1 the ",
    r",? ?\b(?:of|in|at|over|within|near|overlying|along|through|from|by|to|on|with|for|versus) "
    rf"(?:{_PLACE} )*{_MARKS}(?=\s*(?:[.,;:)]|$|{CUT})"
    r"|\s+(?:and|of|in|at|with|on|for|is|are|appears?|without|bilaterally|secondary|due|most likely"
    r"|likely|which|that|may|consistent|compatible)\b)": CUT,
}
"""Numbers without their unit, dates, places and other phrases that have lost their noun."""

LISTS: Steps = {
    rf"^(?:the )?(?:visualized )?(?:[\w-]+ )?{_MARKS}(?:, (?:and )?| and | or )"
    r"(?=[\w-]+(?: [\w-]+)*,? (?:are|is|appear|remain|and|unremarkable))": "",
    rf", (?:and )?(?:[\w-]+ ){{0,2}}{_MARKS}(?=,| and\b| or\b)": "",
    rf",? and (?:the )?(?:[\w-]+ ){{0,2}}{_MARKS} {_IS}\b[^,;]*": _second_clause,
    r"(?<!cardiac)(?<!hilar)(?<!mediastinal)(?<!pulmonary),? (?:and|or) "
    rf"(?:[\w-]+ ){{0,2}}{_MARKS}{_NOUN_ENDS}": "",
}
"""Members of a list: "The heart, pulmonary XXXX and mediastinum"."""

LINKS: Steps = {
    rf"\b({_OPACITY}) {_MARKS}(?= (?!represent|reflect|related|relates|due|secondary|consistent"
    r"|compatible|suggest|seen|noted|identified|demonstrated|visuali|appreciated|better|best|within|normal|from"
    r"|in |of |at |a |an |the |be\b)\w)": rf"\1,{CUT}",
    rf"(?<=[a-z]) {_MARKS} (?:the|a|an) [^,;]*": CUT,
}
"""Lost verbs: "opacities XXXX atelectasis", "leads XXXX the thorax"."""

_restored = rewriter(RESTORED)
_without_marks = rewriter(SINGLE, PHRASES, LISTS, LINKS)
_VERBS_OF_ONE = {"are": "is", "appear": "appears", "remain": "remains"}
_LOST_NOUN = re.compile(_MARKS + _NOUN_ENDS)
_ATTRIBUTE = re.compile(_MARKS)
_MARK = re.compile(MARK)
_SINGULAR = re.compile(
    r"^((?:The )?(?:Heart|Heart size|Cardiac silhouette|Mediastinum|Aorta)) (are|appear|remain)\b",
    re.IGNORECASE,
)


def has_mark(sentence: str) -> bool:
    """Tell whether something was removed from a sentence to protect a patient."""
    return _MARK.search(sentence) is not None


def restore_words(sentence: str) -> str:
    """Return the sentence with a word in the place of each mark for which only one fits.

    >>> restore_words("Sternotomy XXXX and XXXX overlie the heart.")
    'Sternotomy wires and XXXX overlie the heart.'
    """
    return _restored(sentence) if has_mark(sentence) else sentence


def remove_marks(sentence: str) -> str:
    """Return the sentence without marks, "" if nothing that can be read is left.

    >>> remove_marks("No XXXX focal consolidation.")
    'No focal consolidation.'
    >>> remove_marks("The heart, pulmonary XXXX and mediastinum are normal.")
    'The heart and mediastinum are normal.'
    >>> remove_marks("The XXXX are intact.")
    ''
    """
    if _CALLED.search(sentence):
        return ""
    text = _without_marks(restore_words(sentence)).rstrip(".")
    clauses = (CUT if _LOST_NOUN.search(clause) else clause for clause in re.split(r"(?<=[,;]) ", text))
    text = close_cuts(_ATTRIBUTE.sub(" ", " ".join(clauses)))
    return _SINGULAR.sub(lambda found: f"{found[1]} {_VERBS_OF_ONE[found[2].lower()]}", text)
