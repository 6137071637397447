"""The words of the 14 CheXpert classes, and where they stand in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Literal

from xraygpt.evaluation.sentences import Sentence

NO_FINDING = "No Finding"
SUPPORT_DEVICES = "Support Devices"
CLASSES = (
    NO_FINDING,
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    SUPPORT_DEVICES,
)
"""In the order of CheXpert's tables."""

Kind = Literal["finding", "normal", "borderline"]


@dataclass(frozen=True, slots=True)
class Term:
    """Words of a class in a sentence."""

    label: str
    kind: Kind
    """``finding``: asserted unless the sentence says otherwise; ``normal`` and ``borderline``: words that
    deny the class or leave it open by themselves."""
    start: int
    end: int


HEART_NAMES = (
    r"cardiac (?:silhouette|shadow|size|contours?|outline|diameter)|cardio-?pericardial (?:silhouette"
    r"|contours?|size)"
)
HEART = rf"(?:heart(?: size)?|{HEART_NAMES})"
MEDIASTINUM = (
    r"(?:mediastin(?:um|al (?:contours?|silhouette|width|structures|size))|cardio-?mediastin(?:um|al "
    r"(?:silhouette|contours?|structures|size)))"
)
RATIO = r"(?:cardio-?thoracic (?:ratio|index)|ct ratio|\bctr\b)"
ENLARGED = (
    r"(?:enlarged|enlargement|prominent|increased|widened|widening|(?:large|bigg?)(?:r|er)?\b|wide\b"
    r"|grown\b|generous|above normal)"
)
RAISED = (
    r"(?:0?\.(?:5[1-9]|[6-9])|(?:5[1-9]|[6-9]\d) ?(?:%|percent)|increased|raised|elevated|enlarged|high"
    r"|large|abnormal|exceed|(?:greater|more|larger) than|above|over)"
)
NORMAL = (
    r"(?:(?<!ab)(?<!above )normal|unremarkable|within normal|wnl|not (?:enlarged|widened)|(?:(?<=is )"
    r"|(?<=are ))not (?:increased|raised|elevated))"
)
BORDERLINE = r"(?:borderline|upper (?:limits?|end|range|normal)|(?:top|high)[- ]normal)"
JUDGEMENT = r"normal|unremarkable|enlarge|borderline|limits|\bbut\b|effusion|widen|\bwide\b"
LOBE = r"(?:lungs?|lobes?|lingula|[rl][lum][lz])"
OTHER_THING = r"\blungs?\b|pulmonary|aort|\bhila"
IS = rf":?(?:(?!{JUDGEMENT}|{OTHER_THING}|,| with | and (?!mediastin))[^;:]){{0,60}}?"
"""Between a thing and its size: 'heart [is mildly to moderately] enlarged'."""
AND_OTHERS_ARE = rf":?(?:(?!{JUDGEMENT}|\blungs?\b)[^;:]){{0,70}}?"
"""Between a thing and its normality, which is often said of several: 'heart [and mediastinum are] normal'."""
OTHERS = r"heart|cardiac|mediastinal|sized?|silhouette|hilar|pulmonary|and|stable|appearing|contours?"
NORMAL_OTHERS_AND = rf"\bnormal(?:[ ,]+(?:{OTHERS}))*[ ,]+"
BEHIND_EFFUSION = "|".join(
    f"(?<={fluid} {joined} )"
    for fluid in ("effusion", "effusions", "fluid")
    for joined in ("or", "and/or", "versus", "or pleural")
)

FINDINGS = {
    "Enlarged Cardiomediastinum": (
        rf"{MEDIASTINUM}{IS}{ENLARGED}",
        r"(?:enlarged|widened|prominent|wide) (?:superior |upper )?(?:cardio-?)?mediastin(?:um|al)",
        r"(?:widening|enlargement|prominence) of (?:the )?(?:superior |upper )?(?:cardio-?)?mediastin",
        r"mediastinal (?:widening|enlargement|prominence)",
    ),
    "Cardiomegaly": (
        r"cardiomegaly",
        rf"{HEART}{IS}{ENLARGED}",
        rf"(?:enlarged|prominent|increased|large|enlargement of the) (?:heart|{HEART_NAMES})",
        r"(?:cardiac|heart|ventric(?:le|ular)|biventricular|chamber) (?:enlargement|dilat)",
        rf"{HEART} [^,;:]{{0,40}}\bbut (?:(?:still|remains?|likely|is|\w+ly) )*{ENLARGED}",
        rf"(?:larger|bigger|big|globular) heart\b|{RATIO}(?:(?!(?<!ab)normal|{OTHER_THING}"
        rf"|,)[^;:]){{0,30}}?{RAISED}|{RAISED} {RATIO}",
        rf"{HEART} [^,;:]{{0,30}}\b(?:over|(?:more|greater|larger) than|exceed\w*) (?:half|50 ?%)|occupies "
        rf"(?:5[1-9]|[6-9]\d) ?%",
        r"(?:increase|enlargement) (?:in|of) (?:the )?(?:size of (?:the )?)?(?:heart|cardiac)",
        r"\b(?:mild|moderate|severe|marked|stable|unchanged|no|borderline) cm\b",
    ),
    "Lung Opacity": (
        r"opaci|infiltrat|air[- ]?space (?:disease|process)|ground[- ]?glass|reticul|\bshadowing",
        r"interstitial (?:marking|pattern|lung|prominence|thickening|disease)",
        r"(?:prominent|prominence of(?: the)?|increased|coarse\w*) (?:\w+ )?interstiti",
        r"(?:increased|decreased|patchy|hazy|streaky|focal|linear|alveolar) (?:lung |basal )?(?:densit"
        r"|translucen|shadows)",
        r"(?:retrocardiac|perihilar|basilar|midlung|lung|lobe|base) (?:and \w+ |x+ )?densit|densities,? "
        r"(?:left|right) (?:lung|base|lower|upper|mid)",
        r"(?<!nodular )(?<!calcific )(?<!calcified )(?<!bone )densit(?:y|ies) (?:is |are )?(?:present |seen "
        r"|noted )?(?:in|within|at|over|overlying) the (?:\w+ ){0,3}(?:lung|lobe|base|lingula|apex|midlung)",
    ),
    "Lung Lesion": (
        r"(?<!reticulo)(?<!reticulo-)(?<!pseudo)(?<!pseudo-)nodul|(?<!body )\bmass(?:es)?\b(?! effect)"
        r"|mass-?like|cavitat|cavitary",
        r"carcinoma|neoplas|\bmalignan|tumou?r|metasta|lung cancer",
        r"(?:lung|pulmonary|cystic|parenchymal) lesions?\b",
    ),
    "Edema": (
        r"(?<!tissue )(?<!subcutaneous )o?edema|\bchf\b|\bcongesti(?:on|ve)\b|kerley|(?:fluid|volume) "
        r"overload",
        r"(?<!respiratory )(?<!renal )(?<!kidney )(?<!liver )(?<!organ )(?<!hardware )\bfailure\b(?! (?:to"
        r"|of)\b)",
        r"(?:cardiac|heart) decompensation",
        r"\bb[- ]lines?\b|(?:inter(?:lobular )?)?septal (?:lines|thickening)|thickened (?:inter(?:lobular "
        r")?)?sept",
        r"pulmonary venous hypertension|(?<!de)decompensation|cephali[sz]ation|(?:venous|blood) diversion",
        r"(?<!mediastinal )(?:vascular|venous|vessel) (?:redistribution|prominence|engorgement"
        r"|indistinctness|distension)",
        r"(?:vascularity|vasculature|vascular markings|(?:pulmonary|hilar) vessels) (?:(?:is|are|appears?"
        r"|remains?|not|\w+ly) )*(?:engorged|indistinct|congested|ill-defined)",
        r"(?:prominent|prominence of(?: the)?|increased|engorged|indistinct) (?:central |lung |pulmonary "
        r")*(?:vascularity|vasculature|vascular margin|vessels)",
    ),
    "Consolidation": (r"(?<!non)(?<!non-)consolidat",),
    "Pneumonia": (
        r"pneumonia|pneumonic|(?<!radiation )pneumonitis|infectious|(?<!granulomatous )infection|\bpna\b",
    ),
    "Atelectasis": (
        r"atelecta|\batx\b|collapse of (?:the )?(?:\w+ ){0,4}(?:lung|lobe)s?\b|(?<!thorax )volume loss(?! "
        r"and (?:fibro|scar))|volume reduction|reduced in volume|(?:lobe|lung) (?:is|has) (?:shrunk"
        r"|shrunken)\b|lost (?:\w+ )?volume|(?:lobe|lung) volume (?:is|has|appears) (?:\w+ )?(?:reduc"
        r"|decreas|diminish)|loss of (?:lung )?volume",
        r"(?:reduced|reduction in|decrease in|decreased|diminished) volume (?:of|in) (?:the )?(?:\w+ "
        r"){0,3}(?:lung|lobe)",
        r"(?<!vertebral )(?<!body )(?<!tracheal )(?<!disc )\bcollapse\b(?! (?:deform|fracture|(?:of|at) "
        r"(?:the )?(?:[\w-]+ ){0,3}(?:vertebra|body|trachea|[tl]\d)))",
        rf"collapsed (?:(?:left|right|upper|middle|lower) ){{0,2}}{LOBE}",
        rf"{LOBE}:? (?:(?:is|are|both|has|have|be|been|may|might|could|appears?|remains?|airless|small|and"
        rf"|not|no longer|now|again|\w+ly) )*collapsed",
    ),
    "Pneumothorax": (
        r"pneumothora|\bptx\b|pleural (?:air|gas)\b|(?:pleural|lung) (?:line|edge)\b",
        r"\b(?:air|gas)\b(?!-| fluid| bronch| space)(?: [\w-]+){0,4} (?:the )?(?:\w+ ){0,2}pleural (?:space"
        r"|cavity)",
        r"pleural (?:space|cavity) (?:\w+ ){0,5}(?:air|gas)\b|\b(?:air|gas) (?:\w+ ){0,2}between (?:the "
        r")?(?:visceral|parietal|pleura|lung)",
    ),
    "Pleural Effusion": (
        r"(?<!pericardial )(?<!joint )effusion|pleural and pericardial effusion",
        r"pleural (?:fluid|collection)|(?<=pleural air or )fluid|pleural (?:space|cavity) (?:\w+ "
        r"){0,4}fluid|\bfluid (?:[\w-]+ ){0,3}(?:in|into|within|along) (?:the )?(?:\w+ ){0,2}(?:pleural "
        r"(?:space|cavity)|hemithora)|hydrothorax|hydropneumothorax|ha?emothorax|empyema",
        r"fluid in the (?:\w+ )?fissure|fissural fluid|\bmeniscus|(?:trace|small|layering|loculated|free"
        r"|amount of) (?:left |right |[lr] )?fluid\b(?! level)|fluid (?:tracking|layering)",
    ),
    "Pleural Other": (
        r"(?:pleural(?:[- ](?!effusion|fluid)\w+){0,2}?|fissural)[- ](?:thickening|scar|plaque|calcif"
        r"|reaction|retraction|abnormality)",
        r"apical (?!pleural)(?:\w+ )?thickening|thickening of the (?:\w+ )?pleura|apical cap|fibrothorax",
        rf"(?:{BEHIND_EFFUSION})(?:pleural )?thickening",
    ),
    "Fracture": (
        r"(?<!catheter )(?<!lead )(?<!wire )(?<!screw is )fractur\w*+(?![^.,;]{0,30}\b(?:scaphoid|hip|femur"
        r"|wrist|hand|pelvis|ankle|tibia)\b)(?! (?:of the )?(?:[\w-]+ ){0,3}(?:wire|screw|lead|catheter))"
        r"|\bfxs?\b",
    ),
    SUPPORT_DEVICES: (
        r"pace ?maker|pacer|pacing|a?icds?\b|defibrillator|stimulator|generator|loop recorder|leads?\b(?! "
        r"(?:to|the))",
        r"(?:central|venous|picc|subclavian|jugular|[lr]?ij|svc|cvp|arterial|infusion|dialysis) (?:venous "
        r")?lines?\b|cv[cl]s?\b|\bcts? in place",
        r"(?<!septal )(?<!kerley )(?<!pleural )(?<! b )lines? (?:position|placement|tips?|(?:is|are"
        r"|remains?) (?:unchanged|stable|in))\b",
        r"(?:unchanged|stable|support|monitoring) lines\b|lines (?:unchanged|stable)\b|\bthe lines\b(?! of)",
        r"(?:lines(?: and |/)tubes|tubes(?: and |/)lines)\b|catheter|picc\b|swan-?ganz|cannula",
        r"balloon pump|iabp\b|lvad\b",
        r"port\b|port-?a-?cath|mediport|tub(?:es?|ing)\b|(?:ett|ngt|ogt)\b|tracheostomy|drains?\b|pigtail",
        r"tips?\b[^;]{0,60}(?:\bsvc\b|vena cava|cavo-?atrial|caval|right atri|carina|stomach)",
        r"wires?\b|clips\b|sutures?\b|staples?\b|stents?\b|coils?\b|screws?\b",
        r"(?:vp|tips) shunt|shunt (?:tub|cath)",
        r"(?<!breast )prosthe|arthroplast|valve replacement|hardware|devices?\b|occluder",
        r"embolization|anchors?\b|(?:internal|spinal|screw|rod) fixation|(?:ivc|caval?) filter",
    ),
}
NORMALS = {
    "Enlarged Cardiomediastinum": (
        rf"{MEDIASTINUM}{AND_OTHERS_ARE}{NORMAL}",
        rf"{NORMAL_OTHERS_AND}(?:cardio-?)?mediastin(?!\w* (?:is |appears )?{ENLARGED})",
    ),
    "Cardiomegaly": (
        rf"(?<!enlarged )(?<!large )(?<!prominent )(?:{HEART}|{RATIO}){AND_OTHERS_ARE}{NORMAL}",
        rf"{RATIO}[^;,]{{0,20}}(?:less than|below|under|0?\.[34]|\b[34]\d ?(?:%|percent))",
        rf"{NORMAL_OTHERS_AND}(?:heart|cardiac)(?! and)",
    ),
    "Lung Opacity": (
        r"lungs?:? (?:fields? )?(?:are|is|remains?|appears?)? ?(?:\w+ ){0,2}?clear\b|\bclear lungs?\b",
    ),
    "Pleural Effusion": (
        r"pleural spaces? (?:are|is) (?:\w+ )?clear|\b(?:sharp|clear) (?:costophrenic|cp) |(?:costophrenic"
        r"|cardiophrenic|cp) (?:angles?|sulc(?:i|us)|recess(?:es)?)(?: (?:are|is|remains?|appears?|both"
        r"|bilaterally|\w+ly))* (?:sharp|clear)",
    ),
}
BORDERLINES = {
    "Cardiomegaly": (
        rf"{HEART}{AND_OTHERS_ARE}{BORDERLINE}(?: of normal)?(?: enlarged| cardiomegaly)?",
        r"borderline (?:cardiomegaly|heart|cardiac|enlarge)",
    ),
}


HINTS = {
    label: words.split("|")
    for label, words in {
        "Enlarged Cardiomediastinum": "mediast",
        "Cardiomegaly": "heart|cardi|ventric|chamber|ctr|ct ratio| cm",
        "Lung Opacity": "opac|filtrat|space|ground|reticul|interstiti|densit|translucen|lung|shadow",
        "Lung Lesion": "nodul|mass|cavit|carcin|neopl|malign|tumo|metasta|cancer|lesion",
        "Edema": "edema|b-line|b line|chf|congest|kerley|overload|failure|decomp|sept|venous"
        "|diversion|cephali|vas|vess",
        "Pneumonia": "pneumoni|infecti|pna",
        "Atelectasis": "atelecta|atx|collapse|volume|shrunk",
        "Pneumothorax": "pneumothora|ptx|pleura|between|lung edge|lung line",
        "Pleural Effusion": "effusion|fluid|thora|empyema|pleural|meniscus|phrenic|cp ",
        "Pleural Other": "pleura|fissur|thickening|effusion or|apical cap|fibrothorax",
        "Fracture": "fract|fx",
    }.items()
}
"""Every term of the class holds one of these, which are far quicker to look for."""

KINDS: Mapping[Kind, Mapping[str, tuple[str, ...]]] = {
    "borderline": BORDERLINES,
    "normal": NORMALS,
    "finding": FINDINGS,
}
# Devices are named by whole words only, which is also the quickest test of a long list.
PATTERNS = [
    (label, kind, re.compile(r"\b" * (label == SUPPORT_DEVICES) + rf"(?:{'|'.join(alternatives)})\w*"))
    for kind, words in KINDS.items()
    for label, alternatives in words.items()
]


OFTEN_MISTYPED = re.findall(
    r"\w+",
    """
    effusion effusions pneumothorax pneumothoraces hydropneumothorax pneumonia pneumonias atelectasis
    atelectases atelectatic cardiomegaly consolidation consolidations consolidative opacity opacities
    opacification infiltrate infiltrates infiltration edema oedema fracture fractures fractured nodule nodules
    congestion interstitial mediastinum mediastinal cardiomediastinal silhouette enlarged enlargement pleural
    thickening pacemaker catheter endotracheal tracheostomy sternotomy vascular pulmonary cardiac bilateral
    bilaterally bibasilar basilar airspace infection collapse cavitary metastases calcified evidence without
    resolved cleared possible probable suspicious questionable borderline normal left right unchanged
    excluded confirmed identified suspected questioned exclude cannot resolution clearance doubtful unlikely
    suggestive consistent compatible differential thickened pneumonitis pacemakers catheters fibrothorax
    """,
)
"""Words of reports that are understood with one mistake of typing as well."""
SHORTHAND = """
    eff=effusion effs=effusions consol=consolidation consols=consolidations opac=opacity opacs=opacities
    infxn=infection infxns=infections dz=disease atel=atelectasis thickenning=thickening
    prob=probable poss=possible susp=suspicious neg=negative bilat=bilateral b/l=bilateral nl=normal hrt=heart
    pulm=pulmonary vasc=vascular mod=moderate lg=large sm=small sl=slightly evid=evidence sig=significant
    assoc=associated decr=decreased incr=increased resolv=resolved yest=yesterday hx=history ppm=pacemaker
    trach=tracheostomy swan=swan-ganz vs=versus w/=with w/o=without c/w=consistent_with e/o=evidence_of
    s/o=suggestive_of r/o=rule_out h/o=history_of b's=b cant=cannot can't=cannot couldn't=could_not
    isn't=is_not aren't=are_not hasn't=has_not haven't=have_not doesn't=does_not don't=do_not
    wasn't=was_not
"""


def _mistypings(word: str) -> Iterator[str]:
    """Yield the word with one mistake: letters swapped and, the longer it is, one dropped, added or wrong.

    The last letter is not dropped: "enlarge" is a word.
    """
    for i, letter in enumerate(word[:-1]):
        yield word[:i] + word[i + 1] + letter + word[i + 2 :]
        if len(word) > 4:
            yield word[:i] + word[i + 1 :]
            wrong = ascii_lowercase if len(word) > 7 else "aeiou" if letter in "aeiou" else ""
            for other in {letter, *wrong}:
                yield word[:i] + other + word[i + 1 :]
                yield word[: i + 1] + other + word[i + 1 :]


REPLACED = {wrong: right for right in OFTEN_MISTYPED for wrong in _mistypings(right)}
"""What is written -> what is meant."""
REPLACED |= {short: meant.replace("_", " ") for short, meant in (s.split("=") for s in SHORTHAND.split())}
for known in (*OFTEN_MISTYPED, "injection", "revolved"):
    REPLACED.pop(known, None)
WORD = re.compile(r"(?<![a-z])[a-z](?:/[a-z]?(?![a-z])|[a-z]*(?:'[a-z]+)?)")


def correct_typing(sentence: Sentence) -> Sentence:
    """Return a sentence with mistyped words and shorthand replaced; their places stay those of the report."""
    if REPLACED.keys().isdisjoint(WORD.findall(sentence.text)):
        return sentence
    text, end = "", 0
    places: list[int] = []
    for match in WORD.finditer(sentence.text):
        if right := REPLACED.get(match.group()):
            start, stop = match.span()
            text += sentence.text[end:start] + right
            places += sentence.places[end:start]
            places += [sentence.places[min(start + i, stop - 1)] for i in range(len(right))]
            end = stop
    return Sentence(text + sentence.text[end:], [*places, *sentence.places[end:]])


def find_terms(sentence: str) -> list[Term]:
    """Return the terms in a sentence in lower case, in its order; those of one class never overlap."""
    found: list[Term] = []
    hinted = {label for label, hints in HINTS.items() if any(map(sentence.__contains__, hints))}
    for label, kind, pattern in PATTERNS:
        if label in HINTS and label not in hinted:
            continue
        for match in pattern.finditer(sentence):
            start, end = match.span()
            if not any(t.label == label and t.start < end and start < t.end for t in found):
                found.append(Term(label, kind, start, end))
    return sorted(found, key=lambda term: (term.start, term.end))
