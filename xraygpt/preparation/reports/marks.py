"""Take the marks of de-identification out of a sentence, with the words that make no sense without them.

Collections replace names, dates and places by a mark; the program that did so for OpenI has taken many
common words for such: ``lymph XXXX``, ``The XXXX are normal``. Where only one word fits, it is put back; a
mark for a mere attribute goes alone; where a noun or a verb is lost, the phrase or clause goes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

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
    r"|this|her|his|visualized|frontal|several|apical|intact|spinal)"
)
_IS = r"(?:is|are|appears?|has|have|remains?)"
_CALLED = re.compile(
    r"\b(?:discuss(?:ed)?|notified|notification|notify|telephoned?|called|call|phoned|paged|communicated"
    r"|informed|message|questions|Dr|physician|[ap]\.m|acknowledged|certified|opportunity|conveyed|relayed"
    rf"|technologist|addendum|dictated)\b|{MARK}\s*[AP]M\b",
    re.IGNORECASE,
)
"""Sentences that tell whom the radiologist told."""

_NOT_A_NOUN = "".join(
    rf"(?<!\b{word} )"
    for word in "the a an in on of from to since left right frontal lateral PA outside acute".split()  # noqa: SIM905
)
"""In front of a mark: it does not stand for the noun that these words ask for."""
_JUDGED = (
    r"(?:represent\w*|reflect\w*|indicates?|correspond\w*|(?:due|secondary|related|relates) to|from old"
    r"|(?:consistent|compatible) with|sequelae?|accentuated|favored|contributes)\b"
)
"""What a radiologist says of the meaning of a finding."""
_NO_JUDGEMENT = (
    r"(?:(?:is|are|was|were|has|have|would|could|can|may|might|appears?|remains?|and|or|of|at|by|to|for|since"
    r"|than|on|in|within|over|above|more|which|that|with|this|position|spaces?|soft|disc|bony|if|airspace|tips?"
    r"|compared|certified|intact|increased|decreased|demonstrated|noted|identified|abdomen|the)\b"
    rf"|from (?:the |a )?(?:prior|previous|comparison|study|exam|{MARK})|not-"
    rf"|(?:[\w-]+ ){{0,2}}(?:opacit|deformit|densit)|(?:{MARK} )*{MARK}(?! eff)"
    rf"|(?:[\w-]+ ){{1,2}}(?:is|are|was|were|has|have|appears?)\b)"
)
"""What follows other marks behind a comma."""
_SHADOW = (
    r"(?:opacity|opacities|opacification|density|densities|disease|infiltrates?|nodules?|prominence|markings"
    r"|consolidations?|blunting|deformity|deformities|calcifications?|lucency|angles?|nodes|congestion|contour"
    r"|seen)"
)
_SHADOWS = re.compile(r"opacit|densit", re.IGNORECASE)
_DENIAL = re.compile(r"\b(?:no|without|nor|neither|negative|free)\b[^.;]*$", re.IGNORECASE)
_ABNORMAL = (
    r"(?:[\w-]+,? ){0,3}?(?:opacit|densit|disease|infiltrat|nodul|consolid|atelecta|effusion|edema|pneumo"
    r"|fractur|mass|lesion|abnormalit|airspace|deformit|adenopathy|congestion)"
)
_TISSUE = r"(?:\w+ ){0,3}(?:atelecta|scar|opacit)"


def _likely(match: re.Match[str]) -> str:
    """Put back "likely" between a finding and its meaning; in a list of what is absent the mark stays."""
    before = match.string[: match.start()]
    if _DENIAL.search(before) or (not match[1] and not _SHADOWS.search(before)):
        return match.group()
    return f"{(match[1] or '').removesuffix(',')}, likely "


WORDS = {
    r"x-@": "ray",
    r"(?<!left )(?<!right )(?<!lower )(?<!upper )(?<!mid )lung @": "fields",
    r"lymph @": "nodes",
    r"calcified (?:left |right )?(?:supra|infra)?(?:hilar|mediastinal) @": "nodes",
    r"pulmonary @ (?:is|are|appears?|remains?|otherwise|normal|suggest\w*|and mediastinum)\b": "vessels",
    r"represent @ on end\b": "vessels",
    r"^(?:the )?@ are (?:\w+ )?(?:osteopenic|demineralized)\b": "bones",
    r"(?:left|right|a|lateral|posterior) (?:(?:lateral|posterior) )?(?:costo|cardio)(?:phrenic|vertebral) @"
    r"(?! (?:are|and|appear)\b)": "angle",
    r"(?:costo|cardio)(?:phrenic|vertebral) @(?: blunting| is\b)": "angle",
    r"(?:costo|cardio)phrenic @": "angles",
    r"a sternotomy @": "wire",
    r"sternotomy @(?: is| fragment)": "wire",
    r"(?:sternotomy|cerclage) @": "wires",
    r"(?:aortic|transverse|possible right) @": "arch",
    r"(?:epi|peri)cardial fat @": "pad",
    r"IVC @": "filter",
    r"^@ and fluid\b": "gas",
    r"bowel @ pattern": "gas",
    r"(?:stool and|free|extraluminal|intra-abdominal|amount of) @(?! of)": "gas",
    r"chest @,? (?:tip|with|is|in|has|catheter|identified|noted|seen|the distal)\b": "port",
    r"injection @": "port",
    r"an? @ (?:in|on) the (?:left|right) chest\b": "port",
    r"(?<!left )(?<!right )cardiac @(?:\.| (?:in|and|with|is|has|are|generator|project\w+)\b)": "device",
    r"intact @ (?:re)?placement": "lead",
    r"pacing @ over\b": "leads",
    r"single @ project": "lead",
    r"lateral @ and both": "lead",
    r"1-@": "lead",
    r"@(?: tips?\b| terminating)": "lead",
    r"(?:fixation|fusion|stabilization|orthopedic) @": "hardware",
    r"spinal @ placement": "hardware",
    r"nipple @[.,]": "shadow",
    r"surgical @ (?:is|appears|at)\b": "hardware",
    r"(?:surgical|skin) @ (?:overl|remain|seen|have)": "staples",
    r"wedge @ of\b": "deformity",
    r"intramedullary @": "rod",
    r"embolization @": "coil",
    r"@ and screw fixation\b": "plate",
    r"(?:loss of (?:dis[ck] |vertebral body )?|vertebral body )@(?: of | at |[.,]| loss| and)": "height",
    r"@ loss of (?!vertebral|dis[ck]|height)": "height",
    r"demonstrated @ abdomen": "on CT",
    r"(?:evaluation|imaging|correlation) @ (?:chest|of the|scan)\b": "with CT",
    r"(?<!to )@ scan\b": "CT",
    r"@(?: thorax (?:from|for)\b| abdomen and pelvis\b)": "CT",
    r"@ chest(?:,| (?:for|to|is|are|if|in|from|may|would|should|with intravenous)\b)": "CT",
    rf"@ of (?:the )?(?:chest|thorax|neck)\b(?! {MARK}| are)": "CT",
    r"(?:benefit from a|high-resolution|contrast-enhanced) @": "CT",
    r"or @ would\b": "CT",
    r"@ be\b": "may",
    r"@/fluid": "air",
    r"(?:compatible|consistent) @": "with",
    r"@-of-view": "field",
    r"(?:obscuration|silhouetting)[^.;]* (?:left|right) cardiac @": "border",
    r"(?:left|right) @ of the heart": "border",
    r"AP @(?:\.| could| lymph)": "window",
    r"(?:on|in) (?:the )?(?:PA|AP|frontal|lateral) @": "view",
    rf"ventricular @ {MARK}": "border",
    r"within a @ of bowel": "loop",
    r"from top to @": "bottom",
    r"and @ film\b": "off",
    r"@ cell (?:changes|disease)": "sickle",
    r"@ factors for\b": "risk",
    r"there is @ visualization": "poor",
    r"segment @ the\b": "of",
    r"somewhat @ shaped": "barrel",
    r"right atrium and (?:\w+ ){0,4}right @": "ventricle",
    r"(?<!in )@ (?:noted )?with (?:the )?tip\b": "catheter",
    r"@ as an?(?:eurysm)?\b": "such",
    r"nodules? @ on\b": "seen",
    r"should be @ for\b": "made",
    r"(?:appearance|distribution) (?:which )?@ (?:\w+ )?(?:atelecta|scar|edema)": "may be",
    r"(?:no|without|any) @ of\b": "signs",
    r"as to @ or symptoms": "signs",
    r"(?:with|and) @ of (?:early |\w*interstitial )?(?:edema|failure)\b": "signs",
    rf"a (?:{MARK} )?@ of {_TISSUE}": "area",
    rf"(?:scattered|some|few|few basilar|with|likely|{MARK}) @ of {_TISSUE}": "areas",
    r"note is @ of\b": "made",
    r"note @ of\b": "is made",
    r"at @ (?:in part|partially|partly)\b": "least",
    rf"(?:no|without) (?:(?:definite |clear )?(?:evidence|signs) (?:of|for) |any )?@ "
    rf"(?!benign){_ABNORMAL}": "new",
    rf"no\b[^.;]*(?<!acute) or @ {_ABNORMAL}": "new",
    r"(?:most|more|less) @(?! (?:on|than|marked)\b)": "likely",
    rf"{_NOT_A_NOUN}@ {_JUDGED}": "likely",
    r"(?<!there )(?:is|are) @ (?:the|an?|benign|calcified|chronic|scar\w*|atelectatic|external"
    r"|coronary)\b": "likely",
    r"(?:also|but) @ (?:chronic|acute)\b": "likely",
    r"(?:is|are) not @[.,;]": "likely",
    r", @ (?:seen|visuali[sz]ed|appreciated) on\b": "best",
    r"(?:heart size|vascularity|silhouette) @ (?:within normal|normal|enlarged|unremarkable)\b": "is",
    r"(?:lungs|contours) @ (?:clear|within normal|normal|unremarkable)\b": "are",
    r"(?:is|are) @ to (?:be|represent)\b": "thought",
    r"(?:is|are|remains?|\w*or|wires|tube|catheter|line) in @(?!,? (?:align|stable|posit))": "place",
}
"""Where a mark (``@``) stands for just one word, or for several that mean the same, and that word.

OpenI's program took whole words wherever they stood: in the 7,910 sections "likely" and "new" occur not once,
"may" 266 times and "probably" 21 times. So a mark between a finding and its meaning hides "likely", and "no
XXXX nodule" is "no new nodule", which does not deny a known one. Never there either: "vessels", "nodes",
"angle", "wires", "port", "lead", "gas".
"""
TURNS: Steps = {
    rf"\b{MARK}-a-{MARK}(?: {MARK})?": "Port-a-Cath",
    rf"\b(aortic) {MARK} appear\b": r"\1 arch appears",
    rf"\b(superior) {MARK} {MARK}": r"\1 vena cava",
    rf"(?<=\w) {MARK} {MARK} for the opportunity to .*": ".",
    rf"\b(there) {MARK} and(?= \w)": r"\1 are",
    rf"\b(is|are) {MARK} (?=less\b)": r"\1 ",
    rf"\b(lobe) {MARK} (?=densit)|\b(in) {MARK},? (?=(?:stable )?(?:position|alignment)\b)": r"\1\2 ",
    rf"\b{MARK} (?={MARK} (?:tips?|with (?:the )?tip|noted with)\b|(?:due )?at {MARK} (?:in )?part)": "",
}
"""Turns that are put right as a whole."""
JUDGEMENTS: Steps = {
    rf"(,|\b{_SHADOW}) {MARK}(?: {MARK})? (?!{_NO_JUDGEMENT})(?=[a-z])"
    rf"|(?<=base)() {MARK} (?=(?:subsegmental )?(?:atelecta|scar))": _likely,
}
"""A mark between a finding and what it means."""


def _restoring(words: Mapping[str, str]) -> Steps:
    steps: Steps = {}
    for context, word in words.items():
        before, after = context.rsplit("@", 1)
        steps[rf"((?:(?<![\w-])|(?=,)){before}){MARK}(?={after})"] = rf"\1{word}"
    return steps


def _second_clause(match: re.Match[str]) -> str:
    """Leave "A is large" of "A is large, and the XXXX are engorged", all of "A and the XXXX are normal"."""
    return "" if re.search(rf"\b{_IS}\b", match.string[: match.start()]) else match.group()


SINGLE: Steps = {
    rf"{MARK}/(?=[a-z])|(?<=[a-z])/{MARK}": "",
    rf"\b((?:both|bilateral) \w+ lung) {_MARKS}": r"\1s",
    rf"\b(left|right|lower|upper|mid) lung {_MARKS}": r"\1 lung",
    rf"\b(is|are|be|appears?) {_MARKS} (?=(?:within normal|normal|unremarkable|clear|intact)\b)": r"\1 ",
    rf"\b(heart|defibrillator|ICD|pacemaker|stimulator|tips?|scoliosis|{_SHADOW}) {_MARKS}"
    rf"{_NOUN_ENDS}": r"\1",
    rf"^{_MARKS} (?:amount of|of|onset) ": "",
    rf"\bin (?:(?:the )?bilateral )?{_MARKS} and (?=lung|alignment)": "in ",
    rf"\b(mild|minimal|small|slight), {_MARKS} ": r"\1 ",
    rf"\b((?:no|without)(?: \w+){{0,2}} of) {_MARKS}, (?=\w)": r"\1 ",
    rf",? with (?:[\w-]+ )?{_MARKS} (?:of [^,;.]*|otherwise [^,;.]*|residual(?=\.?$))": CUT,
    rf",? in the setting of {_MARKS}|,? (?:with|and) {_MARKS} sulci": CUT,
    rf"^{_MARKS} (?:interval )?change,? ": CUT,
    rf"\b(?:is|are) {_MARKS} (?:and|but) (?=(?:includes?|could|may)\b)": "",
    rf"\bin the (left|right) {_MARKS}{_NOUN_ENDS}": r"on the \1",
    rf"\bin the (left|right) {_TOKEN} {_TOKEN} (?={_TISSUE})": r"on the \1, likely ",
    rf"\bin the (left|right) {_TOKEN} {_TOKEN} (?=\w)": r"on the \1, ",
    rf"\b(?:in|over|at) both {_MARKS}{_NOUN_ENDS}": "on both sides",
    rf"\b{_MARKS} the (?=opacit)": "",
    rf"\b(?:has|have|had)(?: not)? {_MARKS}(?: since\b[^,;]*|{_NOUN_ENDS})": CUT,
    rf"\b(acute|\w+(?:ent|ant|ed|al|ar|ic|y|ous)) (?:and|or) {_MARKS} "
    rf"(?=(?:(?:cardio)?pulmonary |pleural )?(?:{_OPACITY}|abnormalit\w+|findings?)\b)": r"\1 ",
}
"""Words and turns of their own."""

PHRASES: Steps = {
    rf",? dating back to [^,;.]*{_MARKS}": CUT,
    rf",? ?(?:(?:which|that) )?(?:(?:is|are|appears?) )?{_MARKS} from {_MARKS}": CUT,
    rf"(?: (?:which|that))?(?: (?:may|might|could|can|probably|(?:most )?likely))?(?: {_MARKS})? "
    r"(?:represents?|representing|reflects?|(?:consistent|compatible) with"
    rf"|(?:due|related|secondary) to) (?:sequelae? of )?(?:[\w-]+ ){{0,2}}{_MARKS}{_NOUN_ENDS}": CUT,
    rf",? ?(?:{_MARKS} )?(?:\bmeasuring (?:about |approximately |up to )?)?\(?\b\d[\d.]*"
    rf"(?: ?(?:x|by|-|to) ?\d[\d.]*)* {_MARKS}\)?": CUT,
    r",? ?\b(?:(?:performed|dated|obtained|taken|back|due|secondary|related) )?"
    rf"(?:on|at|dated|from|since|in|of|by|to)(?: Dr\.?)? {_MARKS}(?: ?[ap]\.?m\b\.?| hours| hrs)?"
    rf"{_NOUN_ENDS}": CUT,
    rf"{_MARKS}(?: (?:x|by) {_MARKS})* ?[cm]m\b": CUT,
    rf"\bat {_MARKS}": CUT,
    rf"\b(of|in|over|within) (?:the )?{_MARKS} and (?:the )?(?=\w+ing\b)": r"\1 the ",
    r",? ?\b(?:of|in|at|over|within|near|overlying|along|through|from|by|to|on|with|for|versus) "
    rf"(?:{_PLACE} )*{_MARKS}(?=\s*(?:[.,;:)]|$|{CUT})"
    r"|\s+(?:and|of|in|at|with|on|for|is|are|appears?|without|bilaterally|secondary|due|most likely"
    r"|likely|which|that|may|represents?|reflects?|consistent|compatible)\b)": CUT,
}
"""Numbers without their unit, dates, places and other phrases that have lost their noun."""

LISTS: Steps = {
    rf"^{_MARKS} and (?=(?:\w+ )?(?:{_MARKS} )?{_OPACITY}\b)": "",
    rf"^(?:the )?(?:visualized )?(?:[\w-]+ )?{_MARKS}(?:, (?:and )?| and | or )"
    r"(?=[\w-]+(?: [\w-]+)*,? (?:are|is|appear|remain|and|unremarkable))": "",
    rf", (?:and )?(?:[\w-]+ ){{0,2}}{_MARKS}(?=,| and\b| or\b)": "",
    rf",? and (?:the )?(?:[\w-]+ ){{0,2}}{_MARKS} {_IS}\b[^,;]*": _second_clause,
    r"(?<!cardiac)(?<!hilar)(?<!mediastinal)(?<!pulmonary),? (?:and|or) "
    rf"(?:[\w-]+ ){{0,2}}{_MARKS}{_NOUN_ENDS}": "",
}
"""Members of a list: "The heart, pulmonary XXXX and mediastinum"."""

LINKS: Steps = {rf"(?<=[a-z)]) {_MARKS} (?:the|a|an) [^,;]*": CUT}
"""Lost verbs: "leads XXXX the thorax"."""

_restored = rewriter(TURNS, _restoring(WORDS), JUDGEMENTS)
_without_marks = rewriter(SINGLE, PHRASES, LISTS, LINKS)
_VERBS_OF_ONE = {"are": "is", "appear": "appears", "remain": "remains"}
_LOST_NOUN = re.compile(_MARKS + _NOUN_ENDS)
_ATTRIBUTE = re.compile(_MARKS)
_MARK = re.compile(MARK)
_SINGULAR = re.compile(
    r"^((?:The )?(?:Heart|Heart size|Cardiac silhouette|Mediastinum|Aorta|Pulmonary vasculature))"
    r" (are|appear|remain)\b",
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
    text = _restored(sentence) if has_mark(sentence) else sentence
    return text[0].upper() + text[1:] if _MARK.match(sentence) else text


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
