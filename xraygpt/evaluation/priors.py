"""Does a sentence of a report compare with an earlier examination?

A model that sees one radiograph cannot know what an earlier one showed; sentences that say so teach it to
make comparisons up (Ramesh, Chi and Rajpurkar: Improving Radiology Report Generation Systems by Removing
Hallucinated References to Non-existent Priors, 2022). The words of comparison are named here once, as
pieces of regular expressions: for finding such sentences, and for taking the comparison out of them
(``xraygpt.preparation.reports.comparisons``).
"""

from __future__ import annotations

import re

MARK = r"(?>X{3,}|_{2,}|\[\*\*[^\]]*\*\*\])"
"""What stands where an identifier was removed: ``XXXX`` (OpenI), ``___`` (MIMIC-CXR)."""

_STUDY = (
    r"(?:(?:CT (?:thorax|chest|abdomen(?: and pelvis)?)|exam(?:ination)?|study|studies|radiograph|radiogram"
    r"|film|image|imaging|x-?ray|x-XXXX|CT|scan|CXR|MRI|PET|PET-CT|tomogram|mammogram|report)s?)"
)
_KIND = (
    r"(?:chest|CT|PA|AP|frontal|lateral|portable|supine|outside|thoracic|abdomen|pelvis|computed|plain|and"
    rf"|{MARK}|\d{{1,2}}/\d{{1,4}})"
)
_EARLIER = (
    r"(?:prior|priors|previous|earlier|preceding|comparison|older|most recent|recent|last|outside)"
    r"(?:\s+(?:prior|previous|comparison|recent|outside))*"
)
_DATE = (
    r"(?:,?\s*(?:(?:of|from|dated|on|performed|obtained|done|in|at|the)\s+)*"
    rf"(?:{MARK}[/-]?|\d{{1,4}}[/-]\d{{1,4}}(?:[/-]\d{{2,4}})?|(?:earlier )?the same day|yesterday"
    r"|(?:\d+|one|two|three|several) (?:hour|day|week|month|year)s? (?:ago|prior|earlier|before)))+"
)
PRIOR_STUDY = (
    r"(?:(?:the|a|an|her|his|any|multiple|several|patient's)\s+)*"
    rf"(?:{_EARLIER}(?:(?:\s+{_KIND})*\s+(?:{MARK}/)?{_STUDY}(?:\s+{_STUDY})*\b"
    rf"|(?=\s*(?:[.,;)]|$|and\b|with\b|which\b|{MARK})))"
    rf"|(?:{_KIND}\s+)*{_STUDY}(?={_DATE})|{MARK}(?:\s+{_KIND})*\s+{_STUDY}\b|baseline\b)(?:{_DATE})?"
)
"""A noun phrase that names an earlier examination: ``the prior chest radiograph from XXXX``."""
CHANGED = (
    r"(?:increased|decreased|improved|worsened|enlarged|progressed|diminished|reduced|cleared|changed|grown"
    r"|developed|evolved|resolved|removed|placed|inserted|retracted|repositioned|advanced|withdrawn|extubated)"
)
"""What has happened since then."""
SAME = r"(?:stable|unchanged|unaltered|constant|stably)"
RELATED = r"(?:smaller|larger|decreased in size)(?! than\b)"
"""Said of a finding without saying than what."""
SEEN = (
    r"(?:seen|noted|described|visuali[sz]ed|identified|demonstrated|reported|mentioned|present|observed"
    r"|shown)"
)
EXTENT = (
    r"(?:(?:significant|significantly|slight|slightly|mild|mildly|minimal|minimally|moderate|moderately|marked"
    r"|markedly|overall|relatively|essentially|generally|otherwise|grossly|also|again|interval|definite"
    r"|appreciable|substantial|substantially|considerable|considerably|partial|partially|somewhat|probably"
    r"|perhaps|likely|apparent|apparently|obvious|other|gross|relevant|large|radiographic|completely|largely"
    r"|mostly|incompletely|further|now|nearly|almost|not|subtle|subtly|very|small|much|well|questionable|likewise|possible"
    r"|possibly|since|yet|bilaterally)\s+)*"
)
"""Any number of words of extent, each with its white space."""
GROWN = (
    r"(?:(?:increas|decreas|diminish|enlarg)(?:ed|ing)|smaller|larger|reduced)"
    r"(?=,?\s+(?:(?:in\s+size|now|small|moderate|large|left|right|bilateral|basilar|apical|loculated|pleural"
    r"|pulmonary|and)\s+)*(?:hydro)?(?:pneumothora|effusion|edema|atelectasis|consolidation)"
    r"(?!\w* (?:than|or)\b))"
)
"""Said in front of a finding that has no usual size: "Decreased right pneumothorax"."""

_WAS = r"\b(?:was|were|had been)\s+(?:(?:\w+ly|also|best|well)\s+)*"
_PRIOR_ONLY = re.compile(
    rf"{_WAS}{SEEN}\s+(?:\w+\s+){{0,6}}?(?:on|in|by)\s+{PRIOR_STUDY}"
    rf"|^\s*(?:on|in)\s+{PRIOR_STUDY},?\s(?:.*\s)?(?:was|were)\b(?! not\b)"
    rf"|^\s*{PRIOR_STUDY}\s+(?:\w+ly\s+)?(?:showed|demonstrated|reveal(?:ed|s)|described|had)\b"
    r"|^\s*(?:previously,?\s+there|there\s+previously)\s+(?:was|were|had been)\b"
    r"|^\s*there\s+(?:was|were|had been)\s.*\bpreviously\b",
    re.IGNORECASE,
)
_OF_NOW = re.compile(
    r"\b(?:is|are|has|have|remains?|persists?|appears?|shows?|demonstrates?|represents?|reflects?|measures?|may"
    r"|might|could|can|now|again|currently|today|still|stable|unchanged|similar|without|but|however|(?:in|de)creased"
    r"|larger|smaller|new|no longer|which|that)\b",
    re.IGNORECASE,
)

_COMPARISONS = (
    rf"\b{SAME}\b",
    r"\bagain\b|\bre-?demonstrat|\bre-?identified",
    r"(?<!short )(?<!week )(?<!month )(?<!QT )\binterval(?:ly)?\b(?! (?:follow|chest|imaging|radiograph))",
    r"\b(?:compared|relative|similar|comparable|identical|changed?s?|since|than|from|different|comparing|differ"
    r"|on|in|by|to|with|versus)\s+(?:(?:to|with|as|from|in|on|that|those|it|was|were|has|have|been|the|of)\s+)*"
    rf"(?:the\s+|a\s+|any\s+)?{PRIOR_STUDY}",
    rf"\b(?:compared|similar|since|than)\s+(?:(?:to|with|the|that|of|on|in)\s+)*{MARK}",
    rf"\bcomparisons?\b|\b(?:{_EARLIER}|old)(?:\s+{_KIND})*\s+{_STUDY}\b",
    r"\bpreviously\b(?! (?:healthy|well))|\b(?:as|than) (?:before|previously)\b|\bno longer\b",
    rf"\b(?:has|have|had)\s+{EXTENT}(?:been\s+)?{EXTENT}{CHANGED}\b|^{EXTENT}{GROWN}",
    r"\b(?:improv(?:ed|ing|ement)|worsen(?:ed|ing)|resolving(?! or)(?<!or resolving)|resolved)\b",
    r"(?<!document )(?<!document complete )(?<!ensure )(?<!ensure complete )(?<!confirm )(?<!to )(?<!until )"
    r"(?<!high )(?<!high-)\bresolution\b",
    r"(?<!symptoms )(?<!concern )\bpersist(?:s|ed|ent|ently|ing|ence)?\b",
    r"\bcontinue[sd]? to\b|\bcontinued\b(?! (?:clinical|follow|concern|attention))|\bremain(?:s|ed)?\b",
    rf"\b(?:no|without|little|any|not)\s+{EXTENT}(?:interval\s+)?{EXTENT}change(?:s|d)?\b(?! of\b)",
    rf"\bnew(?:ly)?\b(?! york)|\bnow\b|\b(?:is|are|appears?)\s+{EXTENT}{RELATED}",
)
_COMPARISON = re.compile("|".join(f"(?:{pattern})" for pattern in _COMPARISONS), re.IGNORECASE)


def compares_with_prior(sentence: str) -> bool:
    """Tell whether a sentence speaks of an earlier examination or of a change since then.

    ``Stable cardiomegaly.`` and ``The effusion has increased.`` do. Signs of past events do not (``prior
    granulomatous disease``, ``old rib fractures``), nor words for an abnormal state (``increased markings``,
    ``degenerative changes``) and comparisons within the picture (``right greater than left``).
    """
    return _COMPARISON.search(sentence) is not None or tells_only_of_prior(sentence)


def tells_only_of_prior(sentence: str) -> bool:
    """Tell whether a sentence says what an earlier examination showed, and nothing of this one.

    ``Nodules were seen on the prior CT.`` does, ``..., and are unchanged.`` does not; nor does ``The nodule
    was not present on the prior CT.``, which is there now.
    """
    return _PRIOR_ONLY.search(sentence) is not None and _OF_NOW.search(sentence) is None
