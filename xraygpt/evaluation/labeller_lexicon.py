"""The words of the 14 CheXpert classes, and where they stand in a sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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
    r"cardiac (?:silhouette|shadow|size|contours?)"
    r"|cardio-?(?:mediastinal|pericardial) (?:silhouette|contours?|size)"
)
HEART = rf"(?:heart(?: size)?|{HEART_NAMES})"
MEDIASTINUM = (
    r"(?:mediastin(?:um|al (?:contours?|silhouette|width|structures|size))"
    r"|cardio-?mediastin(?:um|al (?:silhouette|contours?|structures|size)))"
)
ENLARGED = r"(?:enlarged|enlargement|prominent|increased|widened|widening|large\b|generous)"
NORMAL = r"(?:normal|unremarkable|not enlarged|within normal|wnl|not widened)"
BORDERLINE = r"(?:borderline|upper limits?|upper normal|(?:top|high)[- ]normal)"
JUDGEMENT = r"normal|unremarkable|enlarge|borderline|limits|\bbut\b|effusion"
OTHER_THING = r"\blungs?\b|pulmonary|aort|\bhila"
IS = rf"(?:(?!{JUDGEMENT}|{OTHER_THING}|,| with | and (?!mediastin))[^;:]){{0,60}}?"
"""Between a thing and its size: 'heart [is mildly to moderately] enlarged'."""
AND_OTHERS_ARE = rf"(?:(?!{JUDGEMENT}|\blungs?\b)[^;:]){{0,70}}?"
"""Between a thing and its normality, which is often said of several: 'heart [and mediastinum are] normal'."""
OTHERS = r"heart|cardiac|mediastinal|sized?|silhouette|hilar|pulmonary|and|stable|appearing|contours?"
NORMAL_OTHERS_AND = rf"\bnormal(?:[ ,]+(?:{OTHERS}))*[ ,]+"

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
        r"(?:cardiac|heart) enlargement|enlargement of (?:the )?(?:heart|cardiac)",
    ),
    "Lung Opacity": (
        r"opaci|infiltrat|air[- ]?space (?:disease|process)|ground[- ]?glass|reticul",
        r"interstitial (?:marking|pattern|lung|prominence|thickening|disease)",
        r"(?:prominent|prominence of(?: the)?|increased|coarse\w*) (?:\w+ )?interstiti",
        r"(?:increased|decreased|patchy|hazy|streaky|focal|linear) (?:lung )?(?:densit|translucen)",
        r"(?:retrocardiac|perihilar|basilar|midlung|lung|lobe|base) (?:and \w+ )?densit",
        r"(?<!nodular )(?<!calcific )(?<!calcified )(?<!bone )densit(?:y|ies) "
        r"(?:is |are )?(?:present |seen |noted )?(?:in|within|at|over|overlying) the (?:\w+ ){0,3}"
        r"(?:lung|lobe|base|lingula|apex|midlung)",
    ),
    "Lung Lesion": (
        r"(?<!reticulo)(?<!reticulo-)nodul|(?<!body )\bmass(?:es)?\b(?! effect)|mass-?like|cavitat|cavitary",
        r"carcinoma|neoplas|\bmalignan|tumou?r|metasta|lung cancer",
        r"(?:lung|pulmonary|cystic|parenchymal) lesions?\b",
    ),
    "Edema": (
        r"(?<!tissue )(?<!subcutaneous )o?edema|heart failure|\bchf\b|\bcongesti(?:on|ve)\b",
        r"pulmonary venous hypertension|cephali[sz]ation",
        r"vascular (?:redistribution|prominence|engorgement|indistinctness)",
        r"(?:prominent|prominence of(?: the)?|increased|engorged|indistinct) (?:central |lung |pulmonary )*"
        r"(?:vascularity|vasculature|vascular margin|vessels)",
    ),
    "Consolidation": (r"consolidat",),
    "Pneumonia": (r"pneumonia|pneumonic|infectious|(?<!granulomatous )infection",),
    "Atelectasis": (
        r"atelecta|(?:lobar|lung|lobe) collapse|collapse of the (?:\w+ ){0,4}(?:lung|lobe)",
        r"collapsed (?:(?:left|right|upper|middle|lower) ){0,2}(?:lung|lobe)",
    ),
    "Pneumothorax": (r"pneumothora|\bptx\b",),
    "Pleural Effusion": (
        r"(?<!pericardial )(?<!joint )effusion|pleural and pericardial effusion",
        r"pleural fluid|hydrothorax|hydropneumothorax|ha?emothorax|empyema",
        r"fluid in the (?:\w+ )?fissure|fissural fluid",
    ),
    "Pleural Other": (
        r"(?:pleural(?:[- ](?!effusion|fluid)\w+){0,2}?|fissural)[- ]"
        r"(?:thickening|scar|plaque|calcif|reaction|retraction|abnormality)",
        r"thickening of the (?:\w+ )?pleura|apical cap|fibrothorax",
    ),
    "Fracture": (
        r"(?<!catheter )(?<!lead )(?<!wire )(?<!screw is )fractur\w*+"
        r"(?! (?:of the )?(?:[\w-]+ ){0,3}(?:wire|screw|lead|catheter))",
    ),
    SUPPORT_DEVICES: (
        r"pace ?maker|pacer|pacing|a?icds?\b|defibrillator|stimulator|generator|loop recorder|leads?\b",
        r"(?:central|venous|picc|subclavian|jugular|ij|svc|arterial|infusion|dialysis) (?:venous )?lines?\b",
        r"(?:lines and tubes|tubes and lines)\b|catheter|picc\b|swan-?ganz|cannula",
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
        rf"{NORMAL_OTHERS_AND}(?:cardio-?)?mediastin",
    ),
    "Cardiomegaly": (
        rf"{HEART}{AND_OTHERS_ARE}{NORMAL}",
        rf"{NORMAL_OTHERS_AND}(?:heart|cardiac|cardio-?mediastinal)",
    ),
    "Lung Opacity": (r"lungs? (?:fields? )?(?:are|is|remains?|appears?)? ?(?:\w+ ){0,2}?clear",),
    "Pleural Effusion": (r"pleural spaces? (?:are|is) (?:\w+ )?clear",),
}
BORDERLINES = {
    "Cardiomegaly": (
        rf"{HEART}{AND_OTHERS_ARE}{BORDERLINE}(?: of normal)?(?: enlarged| cardiomegaly)?",
        r"borderline (?:cardiomegaly|heart|cardiac|enlarge)",
    ),
}


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


def find_terms(sentence: str) -> list[Term]:
    """Return the terms in a sentence in lower case, in its order; those of one class never overlap."""
    found: list[Term] = []
    for label, kind, pattern in PATTERNS:
        for match in pattern.finditer(sentence):
            start, end = match.span()
            if not any(t.label == label and t.start < end and start < t.end for t in found):
                found.append(Term(label, kind, start, end))
    return sorted(found, key=lambda term: (term.start, term.end))
