"""Put sentences in order: those from which words were taken out, and texts in capitals or without any."""

from __future__ import annotations

import re
from collections.abc import Callable

from xraygpt.evaluation.priors import MARK, PRIOR_STUDY
from xraygpt.evaluation.sentences import IMAGE_SECTIONS, NO_END, OTHER_SECTIONS

CUT = "\x00"
"""Stands where a rule took words out, until `close_cuts` has put the sentence in order."""

Replacement = str | Callable[[re.Match[str]], str]
"""What a rule puts in the place of what its pattern finds, as `re.sub` takes it."""
Steps = dict[str, Replacement]
"""Patterns and their replacements, for one after the other."""

_EMPTY_WORDS = frozenset(
    """
    a an the this that these those it its there is are was were be been has have had appear appears
    appearance seen noted identified demonstrated visualized present found again also overall otherwise
    however and or but of in on at to with within without from for by as which both all remainder rest
    findings finding left right bilateral bilaterally upper lower middle mid lobe lobes base bases apex
    side sided portion heart hearts cardiac cardiomediastinal cardiomediastinum silhouette silhouettes
    mediastinum mediastinal hilar hila hilum contour contours size sizes shape configuration aorta
    aortic thoracic lung lungs pulmonary volumes volume vascularity vasculature vascular chest thorax
    osseous bony bone bones structures structure skeletal soft tissue tissues spine pleura pleural
    diaphragm diaphragms hemidiaphragm hemidiaphragms trachea airways central exam examination study
    image images radiograph film view views interval position positions positioning degree extent slight
    slightly mild mildly minimal minimally moderate moderately significant significantly visible level
    status evidence since compared grossly no not any change changes area areas region regions general
    remaining unit number patient patient's cardiopulmonary cardio venous sulci radiographic fields only best
    well
    """.split()  # noqa: SIM905
)
"""Words that alone say nothing about a patient: grammar, anatomy, words of extent."""
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|may|might|[cw]ould|should|can|appears?|demonstrates?|shows?|suggests?|represents?"
    r"|reflects?|projects?|overl(?:ies|y)|reveals?|measures?|extends?|contains?|lies|lie|indicates?|terminates?"
    r"|recommend(?:ed)?|consider|correlate|includes?)\b",
    re.IGNORECASE,
)
_PRONOUN = re.compile(r"(?:this|these|those|it|they|there)\b", re.IGNORECASE)
_CONDITION = re.compile(r"(?:although|despite|if|because|as the)\b[^,;]*$", re.IGNORECASE)
_CIRCUMSTANCE = re.compile(r"(?:given|allowing|considering)\b[^,;]*$", re.IGNORECASE)
_LOOSE_START = re.compile(
    r"^(?:[\s,;:/-]|\b(?:and|but|or|with|which|that|as|than|from|of|in|on|to|by|however|also"
    r"|although|though)\b(?! (?:the lungs|noted)))+",
    re.IGNORECASE,
)
_LOOSE_END = re.compile(
    r"(?:[\s,;:/-]+|\b(?:and|but|or|with|which|that|as|than|from|of|in|on|to|by|the|a|an|for|at|is|are|was|were|also"
    r"|has|have|had|been|be|when|due|secondary|since|versus|appears?|most|more|less|slightly|likely|mildly)\b)+$",
    re.IGNORECASE,
)
_BE = r"(?:is|are|was|were)"
_BREAKS = (
    r"\b(?:and|but|or|with|which|that|as|than|from|of|in|to|by|the|an?|for|at|has|have|had|been|be|does|do"
    rf"|did|not|may|might|could|will|would|should|when|due|secondary|since|versus|most|both|{_BE})\.?$",
    rf"\b(?:{_BE}|has|have|been|may|both) (?:and|or|but)\b|\b{_BE} which\b|\bas or\b|\bif,",
    r"\b(?:and|or|but|of|in|on|at|with|from|by|to|for|since),? (?:and|or|but|of|with|by|from|has)\b",
    rf"\b(?:and|or|but|of|in|on|at|with|from|by|to|for|the|an?),? {_BE}\b",
    r"\b(?:the|an?) (?:of|in|on|at|with|and|or|to|by|for|from|has|have)\b",
    r"^(?:(?:the )?(?:left|right)|T\d+) (?:(?:is|are|appears?) (?!in\b)\S+\.?$|(?:greater|worse) than)",
    r"^(?:prior (?:reveal|show)|broken\.|located|spaces\b|incompletely|convexity\.|(?:in|de)creased\.?$)",
    r"^(?:no )?(?:stud(?:y|ies)|films?) (?:is|are|was|were) (?:not )?available\.?$|\bnot\)|\bmay be,",
    r"\b(?:radiographically|reveals?|separation|sequelae?|would benefit|one of those|is of normal)\.?$",
    r"(?:\b\d(?:st|nd|rd|th)|(?:slightly|mildly) (?:smaller|larger)|radiographic evidence|, similar)\.?$",
    r"\b(?:round|pulmonary|visualized|surgical|mediastinal|hilar|thoracic|humeral|jugular|causing) "
    r"(?:over|arising|suggesting|seen|identified|bilateral|this|cannot)\b|\bto (?:above|within)\b",
    r"\bor would\b|\bacute related\b|\bappears? (?:noted|seen)\b|\bis (?:suggesting|tube)\b|\ba like\b",
    r"^(?:given|considering|allowing|accounting) [^,;]*(?:rotation|technique|projection)\.?$",
    r"\bamount of \w+ing\b|\bthought\.?$|\bthere (?:is|are) (?:one|some|none|now)\.?$",
    r"^(?:may|might|could|can|would|should|including)\b",
    rf"^(?:(?!\b(?:{_BE}|appears?|seems?|shows?|demonstrates?|likely|thought|felt)\b)[^,;])* to be\b",
    r"^(?:this|these|those|it|they) (?:was|were)\b",  # "This was seen well.": in another picture
)
"""Words that cannot follow each other, begin or end a sentence."""
_BROKEN = re.compile("|".join(_BREAKS), re.IGNORECASE)

_ACRONYMS = frozenset(
    """
    aicd ap ards avn cabg cad chf copd ct cta cxr djd dvt ecg ekg et ett ge hiv icd icu ij iv ivc kub lll lul
    lv mri ng og orif pa pe pet picc ptx rll rml rul rv svc tavr tb vp
    """.split()  # noqa: SIM905
)
"""Written in capitals in any text; so is the number of a vertebra, ``T8``."""
_START = re.compile(
    r"(?:^\W*|[.!?][\"')\]]*\s+|(?<=[a-z)]{2}\.)(?=[a-z]+\s)|(?:^|\s)\(?\d{1,2}(?:\.\)?|\)),?\s*)([a-z])"
)
"""The first letter of a sentence or of the item of a list, where `split_sentences` looks for a capital."""


_HEADERS = re.compile(
    # A form within the text, up to the next section of the images.
    rf"\b(?:{OTHER_SECTIONS}):(?=[^:]*:).*?(?=\b(?:{IMAGE_SECTIONS}):)"
    # Why the images were taken is not seen in them.
    r"|(?:^|(?<=[.;] ))(?:clinical |reason |(?:\w+ ){0,2}history|indications?)[\w ]*:[^.]*(?:\.\s*|$)"
    # With what they were compared goes; a sentence of them behind a header stays.
    rf"|(?:^|(?<=[.;:] ))(?:chest\s+)?comparisons?(?:\s*:|(?=\s+{MARK}))"
    rf"(?:\s*(?:{PRIOR_STUDY}|{MARK}|none|not available|no prior\w*|and)\b[,.]?)*\s*"
    rf"|(?:^|(?<=[.;:] ))(?:chest|{OTHER_SECTIONS}|{IMAGE_SECTIONS}):\s*",
    re.IGNORECASE,
)


def remove_headers(text: str) -> str:
    """Return a section without headers in it; what they introduce stays, if it is seen in the images.

    >>> remove_headers("Chest Comparison: There is a mass. Indication: Cough.")
    'There is a mass. '
    """
    return _HEADERS.sub("", text)


def sentence_case(text: str) -> str:
    """Return a text that is in capitals, or without any, as it would usually be written; others as they are.

    Some systems write reports in capitals throughout. How words are written tells the cleaning rules where
    sentences and the items of lists begin, and which letters are marks or abbreviations.

    >>> sentence_case("SMALL EFFUSION ON CT. NO CHANGE SINCE XXXX.")
    'Small effusion on CT. No change since XXXX.'
    """
    words = re.findall(r"[A-Za-z]{2,}", re.sub(MARK, " ", text, flags=re.IGNORECASE))
    capitals = sum(word.isupper() for word in words)
    if capitals > len(words) / 2:
        text = text.lower()
    elif re.search(r"[A-Z][a-z]", text):
        return text
    text = re.sub(r"\b[a-z]+\b", lambda word: word[0].upper() if word[0] in _ACRONYMS else word[0], text)
    text = re.sub(r"\b[clst]\d{1,2}\b|x{3,}", lambda found: found[0].upper(), text)
    return _START.sub(
        lambda found: found[0] if NO_END.search(text[: found.start() + 1]) else found[0].upper(), text
    )


def rewriter(*tables: Steps) -> Callable[[str], str]:
    """Return the function that applies all tables to a text; upper and lower case are alike to them."""
    steps = [(re.compile(pattern, re.IGNORECASE), new) for table in tables for pattern, new in table.items()]

    def rewrite(text: str) -> str:
        for pattern, new in steps:
            text = pattern.sub(new, text)
        return text

    return rewrite


def says_something(text: str) -> bool:
    """Tell whether there are words that could describe a patient; "the heart size" has none."""
    words = re.findall(r"[a-z][a-z'-]*", text.lower())
    return any(word not in _EMPTY_WORDS and word.rstrip("s") not in _EMPTY_WORDS for word in words)


def close_cuts(sentence: str) -> str:
    """Return a sentence with cuts as a whole one, or "" if nothing worth saying is left.

    Clauses between commas that have lost their point go too: of "Heart size normal, stable aorta." the
    first is left.
    """
    starts_with_cut = not _keep(sentence.split(", ")[0]) or sentence.lstrip(" (").startswith(CUT)
    clauses = [clause for clause in re.split(r"(?<=[,;]) ", sentence.rstrip(" .")) if _keep(clause)]
    text = " ".join(clauses)
    text = re.sub(rf"{CUT} ?(?:and|or) (?=(?:overl\w+|with|at|in)\b)", CUT, text)
    unverbed = rf"^((?:(?!{_VERB.pattern})[^{CUT}])*(?:{CUT} ?)+)and (?=(?:may|might|could)\b)"
    text = re.sub(unverbed, r"\1 which ", text, flags=re.IGNORECASE)
    text = re.sub(rf",? (?:and|but) ?(?:{CUT} ?)+(?=(?:with|in|on|at|from|of)\b)", f" {CUT}", text)
    tail = re.search(rf",? (?:with|and) ?{CUT}([^{CUT},;]*)$", text)
    if tail and tail[1].strip(" .") and not says_something(tail[1]):
        text = text[: tail.start()]
    subject, _, rest = text.partition(CUT)
    if (introduced := re.match(r"\s*(?:with|given|when)\b", rest)) and not says_something(subject):
        text = rest[introduced.end() :]
    ends_with_cut = text.rstrip(" .,").endswith(CUT)
    text = text.replace(CUT, " ")
    text = re.sub(r"\(\s*[,;]?\s*\)", " ", " ".join(text.split()))
    text = re.sub(r"\s+([,;.:)])|(?<=\()\s+", r"\1", text)
    text = re.sub(r"([,;:])(?:\s*[,;:])+", r"\1", text)
    text = re.sub(r"\b(and|or|but),? (?:and|or|but)\b", r"\1", text)
    text = re.sub(r",? and(?=[,;])", "", text)
    text = _LOOSE_END.sub("", _LOOSE_START.sub("", text) if starts_with_cut else text.lstrip(" ,;:"))
    if starts_with_cut:
        text = re.sub(r"^without (?:any |evidence (?:of|for) )?", "No ", text, flags=re.IGNORECASE)
    text = _articles(" ".join(text.split()))
    no_subject = starts_with_cut and re.match(r"(?:is|are|was|were|has|have|may)\b", text)
    alone = _CONDITION.match(text) or (ends_with_cut and _CIRCUMSTANCE.match(text))
    if not says_something(text) or no_subject or alone:
        return ""
    if not _VERB.search(text):
        if _PRONOUN.match(text):
            return ""
        text = re.sub(r"^(?:the|an?|otherwise,?) ", "", text, flags=re.IGNORECASE)
    return f"{text[0].upper()}{text[1:]}."


def breaks_off(text: str, published: str) -> bool:
    """Tell whether a rewritten sentence is broken in a way in which the published one was not.

    >>> breaks_off("A nodule which does not.", "A nodule which does not appear on the prior study.")
    True
    """
    return _BROKEN.search(text) is not None and _BROKEN.search(published) is None


def _keep(clause: str) -> bool:
    return CUT not in clause or says_something(clause.replace(CUT, " "))


def _articles(text: str) -> str:
    """Make "a" and "an" fit the words that now follow them."""
    text = re.sub(r"\b([Aa])n(?= (?!x-?ray|hour)[b-df-hj-np-tv-z][a-z])", r"\1", text)
    text = re.sub(r"\b([Aa])(?= [AEFHILMNORSX][A-Z]{1,3}\b)", r"\1n", text)
    return re.sub(r"\b([Aa])(?= (?!uni|use|usu|eu|one)[aeiou][a-z])", r"\1n", text)
