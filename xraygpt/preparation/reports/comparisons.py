"""Take the comparison with earlier examinations out of a sentence, and leave what it finds.

The work is done by tables of patterns and replacements, applied one after the other. What they take out is
replaced by `CUT`, so that later patterns, and `close_cuts`, know where something is missing.
"""

from __future__ import annotations

import re

from xraygpt.evaluation.priors import (
    CHANGED,
    EXTENT,
    GROWN,
    MARK,
    PRIOR_STUDY,
    RELATED,
    SAME,
    SEEN,
    tells_only_of_prior,
)
from xraygpt.preparation.reports.wording import CUT, Steps, close_cuts, rewriter

_VERB = (
    r"(?:is|are|was|were|has|have|had|appears?|appeared|remains?|remained|looks?|seems?)"
    r"(?: (?:been|to be|to have been|to have|also|now|again))*"
)
_FINITE = (
    r"(?:may|might|could|can|is|are|was|were|has|have|extends?|appears?|projects?|measures?"
    r"|(?:likely )?(?:represent|reflect|indicate|suggest)s?)\b"
)
_THERE_IS = r"(?:There (?:is|are|has been|have been|'s been|does appear to be)|There's been) "
_ADVERB = r"(?:(?:\w+ly|somewhat|also|overall|again|interval) )?"
_ASPECT = (
    r"(?:size|number|appearance|position|positioning|extent|severity|configuration|contours?|prominence|opacity"
    r"|caliber|degree|morphology|height|alignment|amount|density|conspicuity|character|distribution|location"
    r"|the interval|this interval|shape|aeration|volume|XXXX)"
)
_ASPECTS = rf"(?:,? (?:(?:in|of)(?: the| their| its| overall)* )?(?:(?:and|or)(?:/or)? )?{_ASPECT}\b)*"
_OF_ASPECT = rf"(?:(?:the )?{_ASPECT} (?:(?:and|or) {_ASPECT} )*of )?"
_RELATIVE = (
    r"(?:increased|decreased|improved|worsened|diminished|reduced|progressed|changed|similar|identical"
    r"|redemonstrated|re-demonstrated|larger|smaller|worse|better"
    r"|(?:more|less) (?:prominent|distinct|conspicuous|dense|extensive|confluent|apparent))"
)
_STATE = rf"(?:{SAME}|{_RELATIVE})"
_AFTER_PREDICATE = (
    rf"(?=\s*(?:[.,;)]|$|{CUT}|(?:in|on|at|given|with|within|from|since|for|over|but|and|when|as|without"
    r"|bilaterally)\b))"
)
_MOVE = (
    r"(?:increase|decrease|improvement|worsening|progression|reduction|development|appearance"
    r"|placement|insertion|performance|persistence|re-?demonstration|growth|change)"
)
_HOW_FAR = r"(?:(?:\w+ly|near|complete|almost|partial|somewhat|interval|now|since|yet|also|not|much)[ -])*"
"""Between "has" and "resolved", or in front of "resolution of"."""
_WHOLLY = re.compile(
    r"(?:(?:complete(?:ly)?|entirely|fully|totally|interval(?:ly)?|now|since|also|apparently|essentially"
    r"|previously|subsequently)[ -])*",
    re.IGNORECASE,
)
_RESIDUE = re.compile(
    r"\b(?:with|but|only)\b.*\b(?:resid\w+|remain\w+|remnants?|persist\w*|minimal|trace|tiny)\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(?:no|without|nor|negative for)\b(?:(?!\b(?:and|with|but)\b)[^;])*(?<!acute or )$", re.IGNORECASE
)
_QUALIFIED = re.compile(r" (?:or )?(?:acute|active|suspicious)\b", re.IGNORECASE)
_LASTING = re.compile(r" (?:[\w-]+ ){0,2}(?:nodul|mass|lesion|calcif|deform)", re.IGNORECASE)


def _none(finding: str) -> str:
    if re.search(MARK, finding):  # nobody knows what there is none of
        return CUT
    return f"{CUT}No {finding[0].lower()}{finding[1:].replace(' and ', ' or ')}"


def _what_is_left(match: re.Match[str]) -> str:
    """What is resolved is none; what is partly resolved is still there."""
    finding, how_far = match["finding"], match["how_far"]
    rest = match.string[match.end("how_far") :]
    return _none(finding) if _WHOLLY.fullmatch(how_far) and not _RESIDUE.search(rest) else CUT + finding


def _with_relative(match: re.Match[str]) -> str:
    """Leave "which may ..." of "which is unchanged and may ..."."""
    first = match[1].split()[0]
    return f"{CUT}{first} " if first.lower() in ("which", "that") else CUT


def _new(match: re.Match[str]) -> str:
    """What is not new may well be there, so a denial of the new must not become one of all."""
    before, after = match.string[: match.start()], match.string[match.end() :]
    if not _DENIED.search(before) or match[0].endswith(" ") or _QUALIFIED.match(after):
        return CUT
    return "other" if _LASTING.match(after) else "acute"


WISHES: Steps = {
    r"(?:^|,? )(?:with|however|as)? ?(?:there (?:is|are) )?(?:no|without(?: a)?|(?:in )?the absence of) "
    r"(?:prior |available )*comparison[^,;]*|,? as no prior [^,;]*$": CUT,
    r"(?:^|(?<=[,;]) )[^,;]*\b(?:(?<!in )comparison (?:with|to|is|was|are|were|made|can|would|could"
    r"|(?:films?|stud(?:y|ies)|exam\w*|images),? (?:if|is|are|was|were|would|could|may) )"
    r"|(?:for|direct|available for) comparison|correlat\w+ (?:[^,;]* )?with (?:any )?(?:prior|previous|old)"
    r"|reference to prior|prior [^,;]* (?:not |un)available)\b.*": CUT,
}
"""Clauses that ask for an earlier examination, or miss it."""

GONE: Steps = {
    r",? ?(?:and )?\b(?:no|without)(?: \w+)? evidence (?:of|for) (?:\w+ )?"
    r"(?:progression|worsening|improvement)\b[^,;]*"
    rf"|^no\b[^,;]*\b{SEEN} [^,;]*?(?:on|in) {PRIOR_STUDY}.*$": CUT,
    rf"^(?:The |A |An )?(?P<finding>.+?),? (?:has|have|had) (?P<how_far>{_HOW_FAR})(?:resolved|cleared)\b"
    r"(?! (?:left|right)).*$": _what_is_left,
    rf"^(?:{_THERE_IS})?(?:the |an? )?(?P<how_far>{_HOW_FAR})resolution of "
    r"(?:the )?(?:previously \w+ |prior )?(?P<finding>.+)$": _what_is_left,
    rf"^(?:The )?(?:previously \w+ )?([^,;]+?) (?:is|are) no longer (?:{SEEN}|visible|evident"
    r"|appreciated)\.?$": lambda match: _none(match[1]),
    r",? (?:with|and) (?:\w+ )?resolution of [^,;]*": CUT,
    rf"^(?P<how_far>{_HOW_FAR})resolved (?P<finding>.+)$": _what_is_left,
    rf"(?:^|(?<=[,;]) )[^,;]*\b(?:removal of|extubation|(?:has|have) {EXTENT}been {EXTENT}"
    r"(?:removed|withdrawn|extubated))\b[^,;]*?(?= with(?:out)?\b|[,;.]|$)": CUT,
}
"""A finding that is gone is none. Nothing is seen of a tube that was removed; what an earlier study did not
show is not denied of now."""

WERE: Steps = {
    r",? which (?:was|were|had been) [^,;]*, (?=(?:is|are|has|have|appears?)\b)": f" {CUT}",
    r",? previously [^,;]*, (?=(?:is|are|has|have|appears?)\b)": f" {CUT}",
    r"\b(?:was|were|had been) [^,;]*?,? (?:and|but) (?=(?:is|are) now\b)": CUT,
    rf",? (?:which|that) (?:\w+ )?(?:was|were) (?:also )?{SEEN} (?:on|in) {PRIOR_STUDY}": CUT,
    rf"\b(?:was|were) (?:not |also )*{SEEN} (?:(?:on|in) {PRIOR_STUDY}|previously),? (?:and|but) "
    rf"(?={_FINITE})": CUT,
    r",? (?:which|that) (?:does|do|did) not [^,;]*": CUT,
}
"""What was, in the middle of what is: "The effusion, which was large, is now moderate"."""

CHANGES: Steps = {
    rf"(?:{_THERE_IS})?\b{EXTENT}(?:improv(?:ed|ing)|improvement (?:in|of)) (?:the )?(?:lung )?"
    r"(?:aeration|volumes)\b[^,;]*?(?= with(?:out)?\b| and (?!left|right)|[,;.]|$)": CUT,
    rf"^((?:There (?:is|are|has been) )?(?:no|without) {EXTENT}(?:interval )?{EXTENT}changes? (?:in|of) "
    r"(?:[\w-]+ ){1,4})or ((?:[\w-]+ ){0,3}[\w-]+\W*)$": r"\1and \2",
    rf"\b(?:{_THERE_IS})?(?:no|little|without(?: any)?|not) {EXTENT}changes? (?:in|of|to) "
    rf"{_OF_ASPECT}(?:the |this |her |his |an? )?": CUT,
    rf"(?:,? (?:or|and|with|there (?:is|has been)|overall,?))? ?\b(?:no|without(?: any)?|or) {EXTENT}"
    rf"(?:(?:acute )?interval )?{EXTENT}chang(?:es?|ed)\b"
    rf"(?: (?:since|from|compared (?:to|with)) {PRIOR_STUDY})?": CUT,
    rf"\b(?:{_THERE_IS}(?:again )?)?(?:the |an? )?{EXTENT}(?:interval |continued ){EXTENT}"
    rf"{_MOVE}(?:/{_MOVE})? (?:(?:in|of) )?{_OF_ASPECT}(?:the )?": CUT,
    r"\bThere (?:has|have) been (?:the |an? )?(?:placement|insertion|development) of (?:the )?": CUT,
    rf"\b(?:{_THERE_IS})?(?:the |an? |no |without |any )?{EXTENT}(?:improvement|worsening|persistence"
    rf"|re-?demonstration|progression)(?: and {SAME} appearance)?,? (?:in |of |{CUT}){_OF_ASPECT}"
    r"(?:the )?": CUT,
    r",? with (?:interval )?(?:improvement|worsening)(?=[.,;]|$)": CUT,
}
""""No change in the large hernia" tells of a large hernia, "no change" of nothing."""

REFERENCES: Steps = {
    r",? dating back to [^,;.]*": CUT,
    r",? ?\b(?:(?:as|when|in|is) )?(?:compared|comparison|relative|similar|comparable|identical)"
    rf"(?: in {_ASPECT})?,? (?:to|with|from)(?: (?:that|those|it was))?(?: (?:of|on|in|from))? "
    rf"(?:{PRIOR_STUDY}|(?:the )?{MARK}(?:[ /-]*{MARK})*(?: from {MARK})?),?": CUT,
    rf"\b(is|are) (\w+ly )?({SEEN}) (?:on|in) {PRIOR_STUDY}": rf"\1 \2\3{CUT}",
    r",? ?\b(?:since|than(?: (?:on|in|seen on))?|from|(?:- ?)?as (?:(?:better |more readily )?"
    rf"{SEEN} )?(?:on|in)|(?:not (?:well |definitely )?)?(?:also |partially )?{SEEN} (?:on|in)"
    rf"|(?:better|well)[ -](?:{SEEN}|appreciated|evaluated) (?:on|in)|compared|on|in|to) "
    rf"(?:that |those |it was )?(?:(?:on|in|of) )?{PRIOR_STUDY}": CUT,
    rf",? ?\b(?:since|than(?: on)?|from|compared(?: to| with)?) (?:the )?{MARK}(?:[ /-]*{MARK})*": CUT,
    r",? ?\b(?:in|during|over) the (?:short )?interval\b,?": CUT,
    r",? ?\b(?:as|than) (?:before|previously)\b|,? on today's \w+": CUT,
}
"""Compared to the prior study, since ..., than on ..."""

PREDICATES: Steps = {
    rf"^{EXTENT}{SAME} ((?:\w+ )?cardiomegaly) and (?:cardio)?mediastinal (?:contours?|silhouette)"
    r"(?=\.?$)": r"\1",
    rf"\b(is|are) {EXTENT}{SAME} in position\b": r"\1 in place",
    rf"\bsimilar to (?=(?:\w+ly )?{_RELATIVE})": "",
    rf"\b(?:is|are|appears?) ?{CUT} ?(?:,? and|but) (?={_FINITE})": CUT,
    rf"(?<!there )\b({_VERB}|(?:which|that) {_VERB}) {EXTENT}{_STATE}{_ASPECTS} ?{CUT}? ?,? (?:and|but) "
    rf"(?={_FINITE})": _with_relative,
    rf"(?<!there )\b({_VERB}) {EXTENT}{SAME},? (?:and|but) (?=\w)": rf"\1 {CUT}",
    rf",? (?:(?:and|but),? )?(?:(?:which|that) )?"
    rf"(?:(?:has|have|had)(?: been| also| now)* {EXTENT}{CHANGED}\b(?: \w+ly)?{_ASPECTS}"
    rf"|(?<!there ){_VERB} {EXTENT}(?:in )?(?:an? )?{EXTENT}{SAME}"
    rf"(?: (?:position|appearance|appearing))?\b{_ASPECTS}{_AFTER_PREDICATE})"
    rf"(?:(?: ?{CUT})*,? and(?= {_FINITE}))?": CUT,
    rf",? (?:(?:which|that) )?(?<!there ){_VERB} {EXTENT}{_STATE}{_ASPECTS}(?= ?{CUT})"
    rf"|(?<={CUT})(?:\s*{EXTENT}{_STATE}\b{_ASPECTS})": CUT,
    rf",? (?:is|are|appears?) {EXTENT}{RELATED}": CUT,
    rf",? {EXTENT}{_STATE}{_ASPECTS}(?= ?{CUT})": CUT,
    rf"(?<=normal|intact) (?:and|but) {EXTENT}{SAME}\b": CUT,
}
"""Is stable and normal, is unchanged in size, which has increased. Words such as "increased" may tell of a
state; beside a reference to an earlier examination they tell of a change."""

ATTRIBUTES: Steps = {
    rf",? {EXTENT}{SAME} (?=(?-i:The) )": ". ",
    r"\bnew(?:ly)?\b(?: or (?=acute))?": _new,
    rf"\b(?:in|with) (?:an? )?(?:{SAME}) (?:position|positioning|alignment)\b": CUT + "in place",
    rf"\b{EXTENT}{SAME} (?:position(?:ing)?|appearance|appearing|location|size|configuration)"
    rf"(?: and {_ASPECT})? of (?!the chest suggest)(?:the )?(?:chest (?=with))?": CUT,
    rf"\b{EXTENT}{SAME}[ -](?:appearing|in appearance)\b": CUT,
    rf",? {EXTENT}{SAME}{_ASPECTS}(?=\s*(?:[.,;]|$))": CUT,
    rf"\b(?:(?:grossly|essentially|relatively|overall|generally) )?{SAME}(?:,| and| but)?(?: |$)": CUT,
    rf"\b(?:once )?(?:again|re-?demonstrated)(?: (?:{SEEN}))?,? (?:and )?(?:is|are) (?:an? |the )?": CUT,
    r"\bre-?demonstrated\b(?= in\b| on\b| at\b| within\b|\.|$)": CUT + "seen",
    r"\b(?:again|re-?demonstrated|persistent(?:ly)?|continued|now"
    rf"|previously {SEEN}|previously)\b": CUT,
    rf"^{EXTENT}{GROWN}": CUT,
    r"\b(?:almost|nearly|largely|partially) (?:\w+ly )?resolved (?=\w)": CUT,
    rf"\b{_ADVERB}(?:improved|improving|worsening|worsened|resolving(?! or)(?<!or resolving))\b"
    r"(?: (?:of|in) (?:the )?)?": CUT,
    r"\b(?:There(?:'s| has| have) been (?:an? |the )?)?(?<!short )interval(?:ly)?\b(?! follow)": CUT,
}
"""Stable, again, persistent, improved, new. "No new effusion" does not say that there is none."""

VERBS: Steps = {
    rf" also(?=\s*{CUT}\s*(?:[,.]|$))": "",
    rf"{CUT} ?as are\b": f"{CUT} and",
    r"\bcontinues to be\b": f"is{CUT}",
    r"\bcontinue to be\b": f"are{CUT}",
    r"\b(?:remains|persists)\b(?= (?:in|at|within)\b(?! place)| bilaterally)": f"is{CUT}present",
    r"\bremains?\b(?=,? (?:which|that)\b)": CUT,
    r"\bremains\b": f"is{CUT}",
    r"\bremain\b": f"are{CUT}",
    r"\b(?:remained|persists?|persisted)\b": CUT,
}
"""Verbs of the time in between."""

_without_comparisons = rewriter(WISHES, GONE, WERE, CHANGES, REFERENCES, PREDICATES, ATTRIBUTES, VERBS)


def remove_comparison(sentence: str) -> str:
    """Return what a sentence says of the picture itself, "" if that is nothing.

    >>> remove_comparison("Compared to the prior examination, the left effusion has increased.")
    'Left effusion.'
    >>> remove_comparison("No change from prior study.")
    ''
    """
    if tells_only_of_prior(sentence):
        return ""
    text = _without_comparisons(sentence)
    return close_cuts(text) if text != sentence else sentence
