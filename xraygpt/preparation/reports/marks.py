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


WORDS = rf"""
ray: x-@
fields: (?<!left )(?<!right )(?<!lower )(?<!upper )(?<!mid )lung @
nodes: lymph @ ; calcified (?:left |right )?(?:supra|infra)?(?:hilar|mediastinal) @
vessels: pulmonary @ (?:is|are|appears?|remains?|otherwise|normal|suggest\w*|and mediastinum)\b
vessels: represent @ on end\b ; (?:blood|tortuous) @ ; ^normal pulmonary @(?:\.|$| and interstitium)
bones: ^(?:the |visualized |{MARK} )*@ (?:are |appear |remain )?(?:\w+ly )?(?:intact|unremarkable)\b
bones: ^(?:the |visualized )*@ are (?:\w+ly )?(?:normal|osteopenic|demineralized)\b
bones: ^(?:normal|unremarkable) @\.?$ ; ^visualized @ of the chest
bones: ^(?:the )?@(?: and|, (?:joint spaces, and )?) ?soft tissues?\b ; ^@, disc spaces
border: near the (?:left|right) heart @ ; (?:left|right) heart @[.]
cuff: rotator @
bones: several @
joint: ^bones, @ spaces ; ^{MARK}, @ spaces, and soft
bones: ^(?:{MARK} )?@ are without fracture ; forefoot @ ; reveals the (?:{MARK} )?@ (?:are|to be)
hila: pulmonary @ and vasculature ; ^prominent bilateral @ ; ^the left and right @
heads: humeral @ bilat
swelling: soft tissue @ (?:is|around|over|about) ; prevertebral soft tissue @
patent: airways? (?:is|are) @ ; airway is midline and is @
contours: ^cardiac and mediastinal @ ; ^aortic @ appear\b
contour: ^wide mediastinal @
largest: measuring the @ of which
There: ^@ is (?=minimal|mild|an? )
trauma: acute thoracic @[.] ; (?:old|remote) @(?:\.|$| is) ; high energy @
structures: due to overlying @ ; represent superimposed @ ; prominent hilar @
changes: emphysematous @
tissue: breast @
cava: vena @
aorta: calcifications of the thoracic @
spine: (?:sclerotic|lytic) (?:focus|lesions?) within the thoracic @
likely: clavicle @ within ; @ (?:due )?(?:at {MARK}|at least) (?:in part|partially|partly|part)\b
wedge: anterior @ deformit
well-defined: one @ margin and the other ill-defined
one: and the larger? @ appears
lead: the @ is in the expected region of (?:the )?right (?:atrium|ventricle)
structure: incompletely visualized @ arising
overlie: leads @ the (?:thorax|chest)
project: leads @ over the
generator: pacemaker @ and
leads: generator and associated @
hila: upward retraction of the @ ; enlargement of the @ bilaterally, likely adenopathy
this: definitely seen on @ (?:radiograph|exam\w*|study)\b
likely: disease, @ in the
Kerley: @ B[ -]lines
effort: inspiratory @
alone: on this study @
heights: vertebral body @ are\b
angle: (?:left|right|a|lateral|posterior) (?:costo|cardio)(?:phrenic|vertebral) @(?! (?:are|and|appear)\b)
angle: (?:costo|cardio)(?:phrenic|vertebral) @(?: blunting| is\b| {MARK} represents) ; costodiaphragmatic @
angle: (?:right|left) basilar[^.;]* costophrenic @
angles: (?:costo|cardio)phrenic @
wire: (?:a|superior|superior-most) sternotomy @ ; sternotomy @(?: is| fragment)
wires: (?:sternotomy|cerclage|sternotomy with intact {MARK}) @
arch: (?:aortic|transverse|possible right) @
pad: (?:epi|peri)cardial fat @
filter: IVC @
gas: @-filled ; ^@ and fluid\b ; bowel @ pattern
gas: (?:stool and|free|extraluminal|intra-abdominal|amount of) @(?! of)
port: chest @,? (?:tip|with|is|in|has|catheter|identified|noted|seen|the distal)\b ; injection @
port: venous {MARK} @ ; an? @ (?:in|on) the (?:left|right) chest\b
device: (?<!left )(?<!right )cardiac @(?:\.| (?:in|and|with|is|has|are|generator|project\w+)\b)
lead: dual-@ (?:pacemaker|cardiac|ICD|AICD) ; intact @ (?:re)?placement
lead: single @ project ; lateral @ and both ; 1-@ ; @(?: tips?\b| terminating)
leads: pacing @ over\b ; stimulator with @
hardware: (?:fixation|fusion|stabilization|orthopedic) @ ; spinal @ placement
hardware: ORIF @
hardware: (?:surgical|surgical cervical|vertebral) @ (?:is|appears|at)\b
shadow: nipple @[.,] ; within the heart @
staples: (?:surgical|skin) @ (?:overl|remain|seen|have)
deformity: wedge @ of\b
rod: intramedullary @
coil: embolization @
device: retention @ ; placed @\. ; left-sided @(?: without acute|\.)
migration: outward @ of
system: renal collecting @
abnormality: ^large (?:right|left) \w+ lobe @\.
likely: bilateral, @ from prior (?!{MARK})
changes: with apical @
plate: @ and screw fixation\b
height: (?:loss of (?:dis[ck] |vertebral body )?|vertebral body )@(?: of | at |[.,]| loss| and)
height: @ loss of (?!vertebral|dis[ck]|height)
on CT: demonstrated @ abdomen
with CT: (?:evaluation|imaging|correlation) @ (?:chest|of the|scan)\b
CT: (?<!to )@ scan\b ; @(?: thorax (?:from|for)\b| abdomen and pelvis\b)
CT: @ chest(?:,| (?:for|to|is|are|if|in|from|may|would|should|with intravenous)\b)
CT: @ of (?:the )?(?:chest|thorax|neck)\b(?! {MARK}| are)
CT: (?:benefit from a|high-resolution|contrast-enhanced) @ ; or @ would\b
may: @ be\b
air: @/fluid
with: (?:compatible|consistent) @
field: @-of-view ; (?:lower|upper|mid) lung @ is\b
border: (?:obscuration|silhouetting)[^.;]* (?:left|right) cardiac @ ; (?:left|right) @ of the heart
border: ventricular @ {MARK}
window: AP @(?:\.| could| lymph)
view: (?:on|in) (?:the )?(?:PA|AP|frontal|lateral) @
loop: within a @ of bowel ; extremely dilated @
bottom: from top to @
off: and @ film\b
sickle: @ cell (?:changes|disease)
risk: @ factors for\b
poor: there is @ visualization
of: segment @ the\b
barrel: somewhat @ shaped
ventricle: right atrium and (?:\w+ ){{0,4}}right @
catheter: (?<!in )@ (?:noted )?with (?:the )?tip\b
such: @ as an?(?:eurysm)?\b
seen: nodules? @ on\b
made: should be @ for\b ; note is @ of\b
may be: (?:appearance|distribution) (?:of the (?:\w+ ){{1,4}}|which )?@ (?:\w+ )?(?:atelecta|scar|edema)
signs: (?:no|without|any) @ of\b ; as to @ or symptoms
signs: (?:with|and) @ of (?:early |\w*interstitial )?(?:edema|failure)\b
area: a (?:{MARK} )?@ of {_TISSUE}
areas: (?:scattered|some|few|few basilar|with|likely|{MARK}) @ of {_TISSUE}
is made: note @ of\b
least: at @ (?:in part|partially|partly)\b
new: (?:no|without) (?:(?:definite |clear )?(?:evidence|signs) (?:of|for) |any )?@ (?!benign){_ABNORMAL}
new: no\b[^.;]*(?<!acute) or @ {_ABNORMAL}
likely: (?:most|more|less) @(?! (?:on|than|marked)\b) ; {_NOT_A_NOUN}@ {_JUDGED}
likely: (?<!there )(?:is|are) @ (?:the|an?|benign|calcified|chronic|scar\w*|atelectatic|external|coronary)\b
likely: (?:also|but) @ (?:chronic|acute)\b ; is @ (?:within )?normal ; rib and @ the ; (?:is|are) not @[.,;]
best: @ suited ; , @ (?:seen|visuali[sz]ed|appreciated) on\b
is: (?:heart size|vascularity|silhouette) @ (?:within normal|normal|enlarged|unremarkable)\b
are: (?:lungs|contours) @ (?:clear|within normal|normal|unremarkable)\b
thought: (?:is|are) @ to (?:be|represent)\b
place: (?:is|are|remains?|\w*or|wires|tube|catheter|line) in @(?!,? (?:align|stable|posit))
"""
"""Where a mark (``@``) stands for just one word, or for several that mean the same, and that word.

OpenI's program took whole words wherever they stood: in the 7,910 sections "likely" and "new" occur not once,
"may" 266 times and "probably" 21 times. So a mark between a finding and its meaning hides "likely", and "no
XXXX nodule" is "no new nodule", which does not deny a known one. Never there either: "vessels", "nodes",
"angle", "wires", "port", "lead", "gas".
"""
TURNS: Steps = {
    rf"\b{MARK}-a-{MARK}(?: {MARK})?": "Port-a-Cath",
    rf"\b(superior) {MARK} {MARK}": r"\1 vena cava",
    rf"\b(separation of the (?:left|right)) {MARK} {MARK}": r"\1 acromioclavicular joint",
    rf"\b(inferior) {MARK} {MARK} {MARK}": r"\1 vena cava filter",
    rf"\b(dual-){MARK} {MARK} (?=unchanged|in\b|with\b)": r"\1lead device ",
    rf"(?<=\w) {MARK} {MARK} for the opportunity to .*": ".",
    rf"\b(there) {MARK} and(?= \w)": r"\1 are",
    rf"\b(is|are) {MARK} (?=less\b)": r"\1 ",
    rf"\b(opacities) which appear to {MARK} {MARK} (?=above)": r"\1 ",
    rf"\b(?:the cardio )?the cardiac silhouette is of the {MARK} of normal": (
        "The cardiac silhouette is at the limit of normal"
    ),
    rf"(?<=clavicle and ){MARK} {MARK}(?= widening)": "acromioclavicular joint",
    rf"(?<=extraluminal ){MARK} free {MARK}": "free gas",
    rf" with an? {MARK} lumen\b": "",
    rf"\b(along|on|over|in|at) the {MARK} aspect of\b": r"\1",
    rf" of the (?:anterior )?cortex of the {MARK} body\b": " of the cortex",
    rf"^(?:considering|given|allowing for) [^,;]*technical factors {MARK} ": "",
    rf"\bbetter (seen|appreciated) on the {MARK} \w+ comparison": r"\1",
    rf", and {MARK} (?=secondary to)": ", likely ",
    rf"(?<=\bwith overlying ){MARK} {MARK}(?= or clothing)": "structures",
    rf"(?<=\bseveral ){MARK} {MARK}": "bones",
    rf"(?<=\bvalve) {MARK}(?=\.|$)|\b{MARK} (?=tube\.?$)": "",
    rf"\bappears to the contrast {MARK}": "appears to be contrast",
    rf"(?<=\bcausing ){MARK}(?= over the)|(?<=\bround ){MARK} {MARK}": "densities",
    rf"^{MARK} and (\w+) (?:{MARK} )?(?=densit)": r"\1 ",
    rf"(?<=\bribs )since at {MARK} {MARK} and {MARK} (\S+ \S+) in {MARK}": r"likely \1",
    rf"\b(lobe) {MARK} (?=densit)|\b(in) {MARK},? (?=(?:stable )?(?:position|alignment)\b)": r"\1\2 ",
    rf"\b{MARK} (?={MARK} (?:tips?|with (?:the )?tip|noted with)\b)": "",
}
"""Turns that are put right as a whole."""
JUDGEMENTS: Steps = {
    rf"(,|\b{_SHADOW}) {MARK}(?: {MARK})? (?!{_NO_JUDGEMENT})(?=[a-z])"
    rf"|(?<=base)() {MARK} (?=(?:subsegmental )?(?:atelecta|scar))": _likely,
}
"""A mark between a finding and what it means."""


def _restoring(table: str) -> Steps:
    """Return the steps of a table with lines such as ``word: context ; context``."""
    steps: Steps = {}
    for line in table.strip().splitlines():
        word, contexts = line.split(": ", 1)
        for context in contexts.split(" ; "):
            before, after = context.rsplit("@", 1)
            steps[rf"((?:(?<![\w-])|(?=,)){before}){MARK}(?={after})"] = rf"\1{word}"
    return steps


def _second_clause(match: re.Match[str]) -> str:
    """Leave "A is large" of "A is large, and the XXXX are engorged", all of "A and the XXXX are normal"."""
    return "" if re.search(rf"\b{_IS}\b", match.string[: match.start()]) else match.group()


_SIDE_ENDS = r"(?=\s*(?:[.,;:)]|$)|\s+(?:with|seen|consistent|likely|which|that|may)\b)"
NEUTRAL: Steps = {
    rf"\b(overl\w+|projecting over|at the level of) (?:the )?(left|right) {_MARKS}"
    rf"{_SIDE_ENDS}": r"\1 the \2 side",
    rf"\b(?:in|of|within|over|at) (?:the )?(left|right) {_MARKS}{_SIDE_ENDS}": r"on the \1",
    rf"\b(?<!heart )and (?:the )?(left|right) {_MARKS}(?=\.?$)": r"and on the \1",
    rf"\b(?:in|of|over|at|within) (?:the )?(?:both|bilateral) {_MARKS}"
    rf"(?: (?=and overlying)|{_SIDE_ENDS})": "on both sides ",
    rf"\band both {_MARKS}{_SIDE_ENDS}": "and on both sides",
    rf"\bin the bilateral {_MARKS} and ": "on both sides and in the ",
}
"""What keeps a side whose noun is hidden."""

SINGLE: Steps = {
    rf"^{_MARKS} study performed\b.*\bnot available\b.*": CUT,
    rf"^{_MARKS} (?=normal (?:heart|lung|medi))|\b{_MARKS} like (?=deform)": "",
    rf"^(?:again noted is )?{_MARKS} and (?=(?:left|right) )": "",
    rf"^{_MARKS}, including (?:the )?": "",
    rf"\b(noted) {_MARKS} (?=in the)| seen on {_MARKS} (?=(?:is|are) )": r"\1 ",
    rf"\b((?:related|due) to (?:\w+ )?){_MARKS} and ": r"\1",
    rf"\b(?:, )?but {_MARKS} given .*": CUT,
    rf"{MARK}/(?=[a-z])|(?<=[a-z])/{MARK}": "",
    rf"\b((?:both|bilateral) \w+ lung) {_MARKS}": r"\1s",
    rf"\b(left|right|lower|upper|mid) lung {_MARKS}": r"\1 lung",
    rf"\b(is|are|be|appears?) {_MARKS} (?=(?:within|normal|unremarkable|clear|intact|without)\b)": r"\1 ",
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
    rf"\b{_MARKS} the (?=opacit)": "",
    rf"\b(?:has|have|had)(?: not)? {_MARKS}(?: since\b[^,;]*|{_NOUN_ENDS})": CUT,
    rf"\b(acute|\w+(?:ent|ant|ed|al|ar|ic|y|ous)) (?:and|or) {_MARKS} "
    rf"(?=(?:(?:cardio)?pulmonary |pleural )?(?:{_OPACITY}|abnormalit\w+|findings?)\b)": r"\1 ",
}
"""Words and turns of their own."""

PHRASES: Steps = {
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
    r"|likely|which|that|may|cannot|seen|represents?|reflects?|consistent|compatible)\b)": CUT,
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
_without_marks = rewriter(NEUTRAL, SINGLE, PHRASES, LISTS, LINKS)
_VERBS_OF_ONE = {"are": "is", "appear": "appears", "remain": "remains"}
_LOST_NOUN = re.compile(_MARKS + _NOUN_ENDS)
_ATTRIBUTE = re.compile(_MARKS)
_MARK = re.compile(MARK)
_SINGULAR = re.compile(
    r"^((?:The )?(?:Heart|Heart size|Cardiac silhouette|Mediastinum|Aorta|Pulmonary vasculature))"
    r" (are|appear|remain)\b",
    re.IGNORECASE,
)


_WRONG = re.compile(
    r"\b(?:broken|swelling|deformit|separation|tub(?:e|ing)\b|catheter|foreign|calcif|degenerat|arthrit|sclero"
    r"|lesion|irregular|prominent|dislocat|fractur|osteoph|opacit|densit|trauma|device|PICC)",
    re.IGNORECASE,
)
"""What is no class of the labeller, but no report may lose."""
_ADVICE = re.compile(
    r"\b(?:recommend\w*|consider|evaluat\w+|if|would|helpful|indicated|no|not|without)\b", re.IGNORECASE
)


def loses_abnormality(before: str, after: str) -> bool:
    """Tell whether a sentence that neither advises nor denies has lost something abnormal.

    >>> loses_abnormality("There are broken XXXX.", "")
    True
    """
    told = _CALLED.search(before) or _ADVICE.search(before)
    kept = {word.lower() for word in _WRONG.findall(after)}
    return not told and any(word.lower() not in kept for word in _WRONG.findall(before))


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
    'No new focal consolidation.'
    >>> remove_marks("The heart, left XXXX and mediastinum are normal.")
    'The heart and mediastinum are normal.'
    >>> remove_marks("The left XXXX are large.")
    ''
    """
    if _CALLED.search(sentence):
        return ""
    text = _without_marks(restore_words(sentence)).rstrip(".")
    clauses = (CUT if _LOST_NOUN.search(clause) else clause for clause in re.split(r"(?<=[,;]) ", text))
    text = close_cuts(_ATTRIBUTE.sub(" ", " ".join(clauses)))
    return _SINGULAR.sub(lambda found: f"{found[1]} {_VERBS_OF_ONE[found[2].lower()]}", text)
