"""Decide what a sentence says of its terms: asserted, denied or left open, and on which side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum
from itertools import pairwise

from xraygpt.evaluation.labeller_lexicon import CLASSES, SUPPORT_DEVICES, Term


class Status(IntEnum):
    """What a report says of a class, in CheXpert's coding; a class that it does not mention has none."""

    POSITIVE = 1
    NEGATIVE = 0
    UNCERTAIN = -1


BE = r"(?:is|are|was|were|has|have|had)"
SEEN = (
    r"(?:seen|identified|present|visuali[sz]ed|evident|appreciated|demonstrated|noted|detected|found"
    r"|apparent|visible|suspected|observed|confirmed|substantiated|reproduced|delineated|recogni[sz]ed"
    r"|shown)"
)
WORD_START = r"(?<![a-z])"
"""Every cue begins a word; said in front of all, it keeps the search from trying them inside of words."""
CHANGE = (
    r"(?:changed?s?|(?:in|de)creased?|improve(?:d|ment)|worsen(?:ed|ing)|(?:pro|re)gress(?:ion|ed)"
    r"|difference|deteriorat\w+|alter(?:ed|ation)|growth"
    r"|(?:enlargement|expansion)(?= of (?:the|this) (?!heart|card|mediast)))"
)
CLEARED = r"(?:resol\w+|clear(?:ed|ing|ance)|disappear\w*|gone|vanished)"
PARTLY = (
    r"(?:almost|improv\w+|further|all but|beginning|early|delayed|gradual(?:ly)?|initial|stead(?:y|ily)"
    r"|near(?:ly)?|patchy|partial(?:ly)?|partly|incomplete(?:ly)?|largely|mostly|somewhat|some|continu\w+"
    r"|slow(?:ly)?|ongoing|progressive|(?:slight|mild|minimal|moderate|marked|significant|substantial"
    r"|considerab)(?:ly|le)?)"
)
NO_CHANGE = "|".join(
    (
        rf"\b(?:no|without|not|neither|nor|lack of)\b(?! (?:\w+ )?new or\b)(?: (?:any|acute|definite|interval"
        rf"|substantial|material|new|real|obvious|further|overt|xxxx|or|(?:evidence|signs?|suggestion) "
        rf"(?:of|for)|\w+(?:ly|[ai]ble|ant|ing|graphic)))* {CHANGE}(?: (?:or|and) {CHANGE})*\b(?! (?:n?or"
        rf"|to suggest|suggest\w*|suspicious|that)\b)",
        rf"\bn?or(?: (?:any|interval|significant|new|\w+ly))* {CHANGE} (?:in|of)\b",
        rf"\bnot (?:\w+ly |well[ -])?{SEEN} (?:previously|before|yesterday|earlier|(?:on|in) (?:the )?"
        r"(?:prior|previous|earlier|old)\b)",
        r"(?:\bcan be )?\b(?:no|little|without(?: a)?|beyond) (?:\w+ )?(?:doubt|denying)\b",
        r"\bno (?:\w+ )?reason to doubt\b|\bmore or less\b|\bno (?:more|less|fewer) than\b",
        r"\b(?:not|never|neither \w+ (?:is|are)) (?:been )?(?:absent|without (?:\w+ )?abnormalit\w*|(?:free"
        r"|clear) (?:of|from))\b",
        rf"\b(?:no|not|without|fail\w* (?:to|of)|lack of|yet to|{PARTLY})(?:[ -](?:yet|still|entirely|fully"
        rf"|(?:complete|total)(?:ly)?|interval|any|signs? of|{PARTLY}))*[ -]{CLEARED}(?: of)?\b",
        r"\b(?:did not|does not|do not|fail\w* to) (?:\w+ )?clear\b(?: of)?",
        r"\bwithout (?:an? |the )?(?:\w+ ){0,2}(?:views?|films?|comparisons?|stud(?:y|ies)|images?|markers"
        r"|contrast)\b",
        r"\b(?:not (?:true|the case|correct|right)|wrong|false|incorrect|untrue) (?:to (?:say|state) "
        r")?(?:that )?(?:there (?:is|are) )?(?:no|not)\b|\bnot without\b|\bno absence of\b|\bbut not (?:yet "
        r")?of\b",
        rf"\b{CLEARED} (?:of )?(?=(?:only|almost|nearly|partially|partly|incompletely|to a large extent"
        rf"|except|apart)\b)",
        rf"\b{CLEARED} of (?=[^,;]*\b(?:is|was|remains) (?:still )?(?:incomplete|partial|not complete"
        rf"|nearly|almost|slow|ongoing))",
        r"\b(?:document|ensure|confirm|until|to|for|await\w*) (?:\w+ )?(?:resolution|clear(?:ing|ance)) of\b",
    )
)
NOT_A_NEGATION = re.compile(rf"{WORD_START}(?:{NO_CHANGE})")
"""A change is denied, not the finding: 'no interval change in the effusion', 'not seen on the prior'; or less
than all of it is gone: 'partial clearing of the edema'."""

NOT_ALL = re.compile(
    rf"\b(?P<not>neither|none of|not all(?: of)?|no evidence that|nothing to suggest "
    rf"that)\b[^;]*?(?:(?P<nor>\bnor\b)[^;]*?)? (?P<changed>(?:has|have) (?:\w+ )?(?:{CHANGE}|{CLEARED}"
    rf"|grown|enlarged|expanded|extended))\b"
)
"""Such a denial with what is denied further behind: 'neither the effusion nor the edema has changed'."""

DOUBT = "|".join(
    (
        r"\b(?:may|might|could|can)\b(?! be seen)|\b(?:possibly|conceivably|perhaps|potential(?:ly)?"
        r"|indeterminate for|presum\w+)\b",
        r"\b(?:possible|questionable|equivocal|dubious|debatable|unclear|borderline|uncertain\w*"
        r"|unlikely)\b(?!$|,| (?:and|but|at|in|on|given)\b)",
        r"\b(?:doubt(?:s|ed|ful)?|whether(?! the\b))\b(?!$|,| and\b)(?: (?:that )?there (?:is|are))?",
        r"\b(?:cannot|can ?not|could not|not|unable to) (?:\w+ )?(?:exclude\b|rule out|discount|dismiss)",
        r"\b(?:cannot|can ?not|could not|unable to) (?:\w+ )?(?:confirm|verify)\b",
        r"\bnot likely\b|\b(?:indistinguishable|cannot be (?:distinguished|differentiated|separated)) from\b",
        r"\brule out\b|\bexclude\b|\bquery\b|\b(?:difficult|hard) to exclude\b|\bnot (?:\w+ )?excluded "
        r"(?:is|are)",
        r"\bcannot (?:be )?(?:say|said|stated|certain|sure)\b(?:.*\bno\b)?|\bnot (?:convinced|persuaded"
        r"|certain|sure|(?:definite|clear|obvious)ly an?)\b(?: (?:that )?there (?:is|are))?",
        r"\bnot (?:\w+ )?(?:typical|specific|characteristic|classic|diagnostic|convincing) (?:for|of)\b",
        r"\bversus\b|\beither\b(?! (?:lung|side|base|apex|hemi|of|cost|view|change))|\bddx\b",
        r"\bdifferentials?\b(?! for| of th)|\bdifferential (?:for|of)\b.*?(?::|\b(?:includes?|is|are)\b)",
        r"\bif (?:any|there is)\b|\bmore likely\b.*\bthan\b|\bless likely\b",
        r"\bfavou?r|\bconsider\b|\bcorrelat\w+(?: \w+){0,2} for\b|\?",
    )
)
LINK = (
    r"\bsuggest\w*|\bsuspicio(?:us|n) (?:for|of)|\bconcern(?:ing)?\b|\bworrisome for|\bquestion(?:ed)?\b"
    r"|\bpossibility\b|\bhint of\b|\bsuspect(?:ed)?\b"
)
"""Doubt what follows ('concerning for pneumonia') or pass a denial on ('no opacity to suggest pneumonia')."""
DENIAL = "|".join(
    (
        rf"\bnot\b(?! (?:only|just|merely)| (?:been |be |yet )*(?:\w+ly |well[ -])?{SEEN}| unlikely|(?: "
        rf"\w+)? (?:excluded|ruled out))",
        rf"\bnot (?:\w+ )?{SEEN}:",
        r"\b(?:no|without|nor|neither|none|denies|nothing|excludes|lacking)\b",
        r"(?<!has )(?<!have )(?<!been )(?<!is )(?<!are )(?<!(?:is|re|as) now )(?<!ve now )(?<!all "
        r")\b(?:absent|resolved|cleared|vanished)\b",
        r"\b(?:negative for|(?:free|devoid) (?:of|from)|clear(?:ed)? of|rather than|instead of|fail(?:s|ed) "
        r"to|(?:mimic|simulat)\w*|(?:false|spurious) (?:impression|appearance) of|little (?:evidence of|to "
        r"suggest))\b",
        r"\b(?:absence|lack|resolution|removal|clearing|clearance|disappearance) of\b",
        r"#[^#]*?(?:\bn?or|,) (?:[\w-]+ ){0,2}(?:evidence|signs?|suggestion|development|complications?) "
        r"(?:of|for|such as|that)\b(?! tension| shift)|#[^#]*?\bn?or (?:for|of|(?:any )?new)\b",
    )
)
"""The last: 'no change in the effusion or evidence of edema', the change blanked out."""
BEFORE = re.compile(rf"{WORD_START}(?:(?P<doubt>{DOUBT})|(?P<link>{LINK})|(?P<denial>{DENIAL}))")

DOUBT_AFTER = "|".join(
    (
        r"\b(?:cannot|can ?not|can no longer|could not|may not|neither)\b[^,;]{0,30}\b(?:excluded"
        r"|discounted|dismissed|ruled (?:in or )?out|be rule out|confirmed|verified)",
        rf"\bnot (?:\w+ )?(?:excluded|ruled out)|\bto be excluded|\bnot (?:\w+ )?excludable"
        rf"|\b(?:difficult|hard) to (?:exclude|rule out)|\bnot yet (?:been )?{SEEN}",
        r"\b(?:is|are|remains?) (?:\w+ )?(?:possible|conceivable|a possibility|questioned|considered"
        r"|suggested)",
        r"\b(?:is|are|remains?|be) (?:\w+ ){0,3}(?:consideration|differential|concern\b)|\b(?:have to |to "
        r")?be considered",
        r"\b(?:in|on|within|of|into|enters|leads|heads) (?:the|a) (?:\w+ )?differential|\b(?:in|open to) "
        r"(?:question|doubt)\b|\bimpossible\b",
        r"\b(?:could|may|might) also\b|\b(?:could|may|might) be (?:present|considered|hidden|obscured"
        r"|missed|there)|\bsuspected\b(?!.*\bnot (?!yet|proven))",
        r"\bpresumed\b|\bif (?:any|present)\b|\b(?:not )?unlikely|\bimprobable|\bnot likely"
        r"|\b(?:indistinguishable|cannot be (?:distinguished|differentiated|separated))|\?$|\bunconfirmed\b",
        r"\b(?:less likely|favou?red)(?=$|,| (?:than|given|but|in|on|as|over)\b)",
        r"\b(?:is|are|remains?) (?:\w+ ){0,2}(?:to be )?(?:doubt(?:ed|ful)|un(?:certain|clear)|questionable"
        r"|equivocal|dubious|debatable)\b",
        r"\b(?:doubtful|questionable|uncertain|equivocal|dubious|possible(?: only| at best)?)(?=$|,)",
    )
)
GONE_WORDS = (
    r"(?:resolved|cleared|gone|disappeared|evacuated|absent|vanished|(?<!partially )drained|melted away"
    r"|lifted|re-?(?:absorbed|expanded|aerated)|no more|now clear)"
)
DENIAL_AFTER = "|".join(
    (
        rf"(?:\w+ly )?(?:not|no longer) (?:an? )?(?:been |be )?(?:\w+ly |well[ -])?(?:{SEEN}|enlarged"
        rf"|widened|persist|recur|re-?accumulat|consideration|in question|borne out|supported)",
        rf"\b(?:cannot|can ?not|could not|can no longer) (?:any longer )?be (?:\w+ly )?{SEEN}",
        r"\b(?:suspected|questioned|suggested)\b[^,;]{0,25}\bnot (?:\w+ )?confirmed",
        rf"\b(?:interval )?removed\b|\b{GONE_WORDS}\b(?!,? (?:but |and )?ha(?:s|ve) (?:\w+ )?(?:recur"
        rf"|return|re-?acc))|\b(?:clear|resolve)s\b|\b(?:excluded|ruled out|refuted)\b",
        r"\b(?:shows?|showed|with) (?:complete |interval |full )*(?:resolution|clear(?:ing|ance))\b(?! of)",
        r"\bwithin (?:normal limits|limits of normal)|: ?(?:all )?(?:no|none|absent|negative|not seen)\b",
    )
)
ADVERBS = r"(?:(?:also|now|since|both|all|thought|felt|deemed|considered|\w+ly) )*"
HELPERS = rf"(?:\b{BE} )?\b{ADVERBS}(?:been )?"
AFTER = re.compile(rf"{HELPERS}(?:(?P<doubt>{DOUBT_AFTER})|(?P<denial>{DENIAL_AFTER}))")
AFTER_DEVICE = re.compile(
    rf"{HELPERS}(?:(?P<doubt>\bquestioned\b)|(?P<denial>(?:interval |since )?(?:remov(?:ed|al)|pulled|taken "
    rf"out|explanted|withdrawn|discontinued)\b(?! (?:back|by|slightly|\d))(?<!can be removed)|(?:come "
    rf")?out\b(?! of| to| over)|\bno longer\b|: ?(?:no|none|absent)\b))"
)
"""Of a device only its removal: 'the tip of the tube is not seen' does not deny the tube."""
ASIDE = re.compile(
    r"\([^)]*\)|\b(?:while|(?:al)?though|albeit|which)\b|, however,|\bxxx+\b|\b_{2,}|\b[\d/-]+\b"
)
OTHER_SUBJECT = re.compile(
    r",[^,]*\w[^,]*$| with |(?:[,:;]|\band\b|\bbut\b|\bwhile\b)(?: the)? (?:one on the |that on the "
    r")?(?:left|right)(?: one| side)? $"
)
"""Between a term and a cue behind it, without what is an aside: 'effusion[, pneumothorax] has resolved'."""
OTHER_SUBJECT_OF_CLAUSE = re.compile(r"(?:,| and )[^,]*\w[^,]*$")
"""The same where the term holds a verb: 'heart is enlarged[ and vascularity] is within normal limits'."""
VERB = re.compile(rf"\b(?:{BE}|remains?|appears?|shows?|demonstrates?)\b")
LIST = re.compile(r"\bor\b|\band\b.*\b(?:are|were|have)\b|: ?\w+$")
"""From a term to the end of a cue that is said of all before: 'effusion[, edema and scars are not seen]'."""

CLAUSE = (
    r"\b(?:but|yet|however|although|though|while|whereas|except|other than|apart from|aside from|besides"
    r"|save for|tension in|despite|otherwise|there (?:is|are|has|have|remains?))\b"
)
AMOUNT = r"(?:small|mild|moderate|minimal|stable|unchanged|persistent|residual|trace|tiny|chronic|old|healed)"
DOUBT_END = re.compile(
    rf"{CLAUSE}|, (?:an? )?(?:{AMOUNT}|no|definite|clear|obvious)\b(?!.*\b(?:or|nor)\b)|\bwith (?:an? "
    rf")?(?:bilateral|definite|known|{AMOUNT})\b|\bafter\b"
)
DENIAL_END = re.compile(
    rf"{CLAUSE}|\b(?:which|likely|probabl[ey]|due to|secondary to|because|makes?|explains?|accounts? for"
    rf"|persistence|to (?:explain|account for)|after|(?<!the )following|status post|s/p)\b|(?:\b(?:is|are) "
    rf"(?:\w+ )?{SEEN}|\b(?:enlarged|widened|normal))(?:,| and\b)(?!.*\b(?:or|nor)\b)|, (?:only|just"
    rf"|merely)\b|(?:,| and) (?:only |just )?(?:an? )?{AMOUNT}\b(?!.*\b(?:or|nor)\b)|\bwith (?:the |an? "
    rf")?(?:{AMOUNT}|visible|bilateral|left|right)\b|, and the\b|#"
)
NEW_CLAUSE = re.compile(r"(?:, |\band )(?![^,]*\bn?or\b)(?P<article>(?:and )?(?:the|an?) )?[^,]*$")
"""The last part of what stands between a denial and a term, where it is not the end of a list."""
OWN_VERB = re.compile(
    rf"(?:(?!\b(?:n?or|to)\b)[^,;]){{0,40}}? (?P<verb>{BE}|remains?|persists?|appears?|continues?|likely"
    rf"|represents?|can|cannot|may|could|should)\b(?P<seen> (?:\w+ly )?{SEEN}\b)?"
)
"""Behind a term: it has a verb of its own; 'no edema, the effusion is unchanged'."""
STATEMENT = re.compile(
    rf"\b(?:{BE}|may|might|could|but|however(?!,)|which(?! ?$)|although|consistent|compatible|likely|the "
    rf"(?:former|latter))\b|\brepresent|\bsuggest"
)
"""What a cue behind a term cannot reach back over."""

ANOTHER = re.compile(
    r"\b(?:but|though|although|however)\b[^;]*(?:\bone\b[^;]*\b(?P<doubt>(?:cannot|can not|could|may|might) "
    r")|there is one\b)|\bbut not (?:in|on|at) the\b|\b(?:except|other than) (?:(?:in|at)\b|an? (?:\w+ "
    r"){0,3}one\b)|\b(?P<open>(?:cannot|can ?not|could not) be (?:assumed|confirmed|assured|guaranteed"
    r"|established|certain))"
)
"""Behind a denial: 'no pneumothorax is seen, but a small one cannot be excluded'."""
NOT_NORMAL = re.compile(r"\bnot (?:\w+ ){0,2}(?:clear|normal|unremarkable|within)|far from|anything but")
NONE_SEEN = re.compile(rf"\W*(?:none|neither)\b(?: {BE})?(?: \w+ly)? {SEEN}\W*")
NOT_SAID_BEFORE = re.compile(
    r"\bhistory(?: of)?(?: (?!with|now|new|there)[\w,/-]+){0,9} $|\btreat(?:ment|ed) for(?: \w+){0,2} $"
    r"|(?<!unclear )(?<!uncertain )(?<!doubtful )(?<!question )\bif (?:(?:an?|the|acute|clinical\w*) "
    r"){0,2}$|\b(?:if|should)\b(?: \w+){0,3} (?:concern\w*|suspicion)(?: \w+){0,4} $|\b(?:limited (?:in"
    r"|for)|sensitiv\w+ (?:in|for|to)|mistaken for|(?:evaluat|assess)\w* (?:for|of)|(?:to|please) (?:assess"
    r"|evaluate))(?: [\w-]+){0,6} $"
)
NOT_SAID_AFTER = re.compile(
    r" (?:\w+ ){0,3}may not be (?:\w+ )?(?:seen|demonstrated|visible|visuali[sz]ed|detected|apparent"
    r"|evident)"
)
"""The past, a question, or what the method could not show: 'fractures may not be seen on radiographs'."""

OPERAND = (
    r"(?:fluid|fibrosis|bone island|aspiration|contusion|ha?emorrhage|infarct\w*|both|artifact|vessels?"
    r"|granulomas?|bullae?|ards|adenopathy|pericardial effusion|overlap|summation|nipples?|skin ?folds?"
    r"|soft tissues?|normal variants?|nutrient \w+|(?:elevat|rais)ed (?:hemi)?diaphragm)"
)
OR = r",? (?:(?:and/)?or|alternatively)(?:,? (?:else|alternatively|even|possibly),?)?"
OR_BEFORE = re.compile(rf"\b(?:{OPERAND}){OR} (?:[\w-]+ ){{0,3}}$")
OR_AFTER = re.compile(rf"(?: \w+)?{OR} (?:[\w-]+ ){{0,3}}?{OPERAND}\b")
"""One of two readings where the other is of no class: 'edema or hemorrhage'."""
OR_BETWEEN = re.compile(
    rf"(?: (?:in|at|of|on|within|involving)\b(?:(?!\bwith|\band\b|\b{BE}\b)[^,;]){{0,30}}?)?{OR} "
    rf"(?:(?!(?:no|without|{BE})\b)[\w-]+ ){{0,4}}"
)
COMMA_BETWEEN = re.compile(r", (?:(?!with|and|but|al?though|while)[\w-]+ ){0,3}")
DESCRIPTIONS = frozenset({"Lung Opacity", "Lung Lesion", "Consolidation"})
"""In front of a list they are what is read: 'opacity, atelectasis or pneumonia'."""
HEDGE = (
    r"(?: (?!with\b)[^,;]{0,40})?,? (?:which |that |and |but |though )?(?:this |it )?(?:is )?(?:(?:most"
    r"|more|very) )?(?:possibl[ey]|perhaps|probabl[ey]|presumably|likely|thought|believed|felt|may|might"
    r"|could|suspect|favou?r|either|versus)\b"
)
NOTHING = (
    r"(?:nipple|confluence of|e[ck]g|arti?e?fact|skin|summation|composite|vessel|vascular (?:structure"
    r"|crossing|shadow)|bone island|(?:\w+ )?cartilage|soft tissue|breast|(?:pectoral|muscle|rib|bone|bony"
    r"|hair|scapular?) (?:shadow|end|overlap)|(?:\w+ )?fat\b|external|clothing|electrode|hernia|tortuo"
    r"|osteophyte|costochondral|azygos|hair\b|spurious|scapula|thym|hiat|overlap|button|jewell?ery|end of "
    r"(?:the )?(?:\w+ )?rib|callus|heal\w+ (?:rib )?fracture|first rib|\w+ rib end)"
)
HARMLESS = re.compile(
    rf"{HEDGE}(?: (?!exagg|accent)[\w-]+){{0,7}}? (?:{NOTHING}|bulla|bleb|shadow|nutrient|\w+ groove"
    rf"|projectional|(?:overl[ay]\w*|superimpos\w*) (?:[\w-]+ )?(?:soft|breast|tissue|rib|clavic|shadow|bon"
    rf"|structure|telemetry|lead|density))"
)
EXPLAINED = re.compile(
    rf"(?:(?!xx|not )[^,;:]){{0,50}}?,? (?:(?:is|are|was|were|appears?)(?= (?:(?:an?|the|x+|merely|just"
    rf"|only|simply|clearly|most \w+|\w+ly|known|\w+al|normal|left|right|prominent|adjacent) )*{NOTHING})"
    rf"|represents?|corresponds? to|prove[sd]? to be|turn(?:s|ed)? out to be|reflects?|(?:due|attributable"
    rf"|secondary|related) to|recogni[sz]ed as|(?:consistent|compatible|in keeping) with|from|explained by"
    rf"|caused by|produced by)(?: (?!not|no|and|may|could)[\w-]+){{0,4}}? {NOTHING}"
)
ONE_HARMLESS = re.compile(
    rf"[^,;:]{{0,40}}[,:] (?:\?|possibl[ey] )?(?:[^,;:]{{0,40}} (?:versus|or) (?:\w+ ){{0,2}}{NOTHING}"
    rf"|\?(?:\w+ ){{0,2}}{NOTHING}|(?:\w+ ){{0,2}}{NOTHING}[^,;:]{{0,30}} (?:versus|or|suspected|possible"
    rf"|favou?red)\b)"
)
TECHNIQUE = re.compile(
    HEDGE + r"(?: [\w-]+){0,6}? "
    r"(?:crowding|(?:low|lung) volume|poor inspir|(?:under|hypo)inflat|rotat|position|project|techni"
    r"|exposure|spurious|magnif|accentuat|exaggerat)"
)
FINDINGS = frozenset(CLASSES) - {SUPPORT_DEVICES}
READINGS = (
    (re.compile(r"(?:(?!,|:| in | at )[^;]){0,25}\bversus\b"), CLASSES, True, Status.UNCERTAIN),
    (HARMLESS, FINDINGS, False, Status.UNCERTAIN),  # "nodule, possibly a nipple shadow"
    (ONE_HARMLESS, DESCRIPTIONS, True, Status.UNCERTAIN),  # "opacity, ?early pneumonia versus soft tissue"
    (EXPLAINED, FINDINGS, False, Status.NEGATIVE),  # "the nodule is a nipple shadow"
    (
        TECHNIQUE,
        ("Cardiomegaly", "Enlarged Cardiomediastinum", "Edema", "Lung Opacity", "Atelectasis"),
        False,
        Status.UNCERTAIN,
    ),
    (
        re.compile(HEDGE + r"(?: [\w-]+){0,2}? (?:scar|fibrosis|pleural|thickening|old change)"),
        ("Atelectasis", "Pleural Effusion"),
        True,
        Status.UNCERTAIN,
    ),
)
"""How what follows a term explains it: words, classes, whether they may lie behind the next term, status."""

NOT_A_SIDE = r"(?! (?:atri|ventric|heart|main|clinical|setting|context))"
SIDE = re.compile(
    rf"(?P<bilateral>\bbilat|\bbibasilar|\bbibasal|\bbiapical|\bboth\b|\bbases\b|\bleft and (?:\w+ "
    rf")?right\b|\bright and (?:\w+ )?left\b)|(?P<left>\b(?:left|lt?|l[lmu][lz]|lij)\b(?!/"
    rf"|-spine){NOT_A_SIDE}|\blingul)|(?P<right>\b(?:right|rt?|r[lmu][lz]|rij)\b(?!/){NOT_A_SIDE}|\bmiddle "
    rf"lobe\b)"
)
ONE = r"\b(?:left|right|[lr])(?: one| side)?(?: it)?"
STAYS = re.compile(
    rf"{ONE} (?:still |also |\w+ly )*(?:persists?|remains?|stays|has not\b|(?:(?:is|has) |(?<=one "
    rf"))(?:still |been |\w+ly |not )*(?:unchanged|stable|present|there|seen|worse|smaller|larger|(?:in"
    rf"|de)creased|improved|worsened|enlarged|grown|progressed|resolved(?<=not resolved)))|\b(?:persist\w*"
    rf"|remain\w*|(?:in|de)creased|smaller|larger|worse|unchanged|stable|present) (?:on|at|in) the (?:left"
    rf"|right)\b"
)
GONE = re.compile(
    rf"{ONE} (?:is |has |having |(?<=[:,] left )|(?<=[:,] right ))(?:now |since |\w+ly )*(?:clear"
    rf"|{GONE_WORDS})\b|\b(?:none|no longer|not|nothing|resolved|cleared|gone|absent|lifted)(?: (?:seen"
    rf"|present|identified|visible|definitely))* (?:on|at|in|from) the (?:left|right)\b"
)
"""Of a pair, named by the side alone: 'the right has resolved, the left persists', 'none on the left'."""
NEXT_THING = re.compile(
    r",(?! (?:left|right|[lr]) ?(?:more|greater|larger|less|worse|[<>]))|\b(?:and|or|with|no|without|versus"
    r"|may|could|might|represent\w*|reflect\w*|suggest\w*|consistent|compatible|likely)\b|:"
)
"""Between two terms: what stands in front of it tells of the first, what stands behind of the second."""
JOINT = re.compile(
    r"(?:[\s,/]|\b(?:and|or|with|versus|an?|the|new|(?:und|ov)erlying|[rl] ?[<>] ?[rl]|small|mild|minimal"
    r"|associated|adjacent|residual|probable|pleural|subsegmental)\b)*|.*\b(?:represent\w*|reflect\w*"
    r"|consistent with|compatible with|suggest\w*|due to|likely)\b.*"
)
"""What joins a term to the one before: they are in the same place."""
SAME = re.compile(r"\b(?:that|the same|this) side\b")
WITHOUT_SIDE = ("Cardiomegaly", "Enlarged Cardiomediastinum")


ONE_OF_TWO = re.compile(r"\bthe (?:(?P<former>former)|latter)\b(?: of (?:which|these|the two)\b)?")


def mask_changes(sentence: str) -> str:
    """Blank out negations of a change, which deny no finding; the length stays."""
    for match in NOT_ALL.finditer(sentence):
        for start, end in map(match.span, ("not", "nor", "changed")):
            sentence = sentence[: max(start, 0)] + "#" * (end - start) + sentence[max(end, 0) :]
    return NOT_A_NEGATION.sub(lambda match: "#" * len(match.group()), sentence)


def judge(sentence: str, terms: Sequence[Term]) -> list[Status | None]:
    """Return what a sentence says of each of its terms; None where it says nothing of now."""
    sentence = mask_changes(sentence)
    alternatives = _alternatives(sentence, terms)
    cues = list(BEFORE.finditer(sentence))
    statuses = [
        _judge(sentence, cues, term, next((t.start for t in terms if t.start > term.end + 1), len(sentence)))
        for term in terms
    ]
    for i in alternatives:
        if statuses[i] == Status.POSITIVE:
            statuses[i] = Status.UNCERTAIN
    for one in ONE_OF_TWO.finditer(sentence):
        two = [i for i, term in enumerate(terms) if term.kind == "finding" and term.end <= one.start()][-2:]
        if len(two) == 2:
            i = two[one["former"] is None]
            said = _status_after(sentence, replace(terms[i], end=one.end()), len(sentence))
            statuses[i] = statuses[i] if said is None else said
    return statuses


def _judge(sentence: str, cues: Sequence[re.Match[str]], term: Term, next_start: int) -> Status | None:
    if term.kind == "finding" and "#" in sentence[term.start : term.end]:
        return None
    if NOT_SAID_BEFORE.search(sentence, 0, term.start) or NOT_SAID_AFTER.match(sentence, term.end):
        return None
    if term.kind == "normal" and NOT_NORMAL.search(sentence, term.start, term.end):
        return Status.POSITIVE
    if term.kind != "finding":
        return Status.UNCERTAIN if term.kind == "borderline" else Status.NEGATIVE
    before = _status_before(sentence, [cue for cue in cues if cue.end() <= term.end], term)
    if before == Status.NEGATIVE and (one := ANOTHER.search(sentence, term.end, next_start)):
        return Status.UNCERTAIN if one["doubt"] or one["open"] else Status.POSITIVE
    after = None if before == Status.NEGATIVE else _status_after(sentence, term, next_start)
    return next((status for status in (after, before) if status is not None), Status.POSITIVE)


def _status_before(sentence: str, cues: Sequence[re.Match[str]], term: Term) -> Status | None:
    """Return what the nearest cue in front of the term, or within it, makes of it."""
    status = None
    for cue in reversed(cues):
        if cue["denial"]:
            return status if _denial_ended(sentence, cue, term) else Status.NEGATIVE
        if _begins_between(DOUBT_END, sentence, cue.end(), term.start) or (
            term.label == SUPPORT_DEVICES and "," in sentence[cue.end() : term.start]
        ):
            return status
        status = Status.UNCERTAIN
        if cue["doubt"]:
            return status
    return status


def _begins_between(pattern: re.Pattern[str], sentence: str, start: int, end: int) -> bool:
    """Tell whether a match begins there; what it looks at may lie behind."""
    found = pattern.search(sentence, start)
    return found is not None and found.start() < end


def _denial_ended(sentence: str, cue: re.Match[str], term: Term) -> bool:
    """Tell whether what lies between a denial and a term ends the denial."""
    if _begins_between(DENIAL_END, sentence, cue.end(), term.start):
        return True
    between = sentence[cue.end() : term.start]
    if term.label == SUPPORT_DEVICES and "," in between and not re.search(r"\bn?or\b", sentence[cue.end() :]):
        return True
    clause = NEW_CLAUSE.search(sentence, cue.end(), term.start)
    if clause is None:
        return False
    verb = OWN_VERB.match(sentence, term.end)
    if verb is None:
        return VERB.search(sentence, clause.start(), term.end) is not None
    if cue.start() == 0 and cue.group() == "without":
        return True
    return clause["article"] is not None or verb["seen"] is None  # 'no edema, effusion is seen' is a list


def _status_after(sentence: str, term: Term, next_start: int) -> Status | None:
    """Return what a cue behind the term makes of it; the next term begins at ``next_start``."""
    for reading, labels, far, status in READINGS:
        if term.label in labels and reading.match(sentence, term.end, len(sentence) if far else next_start):
            return status
    pattern = AFTER_DEVICE if term.label == SUPPORT_DEVICES else AFTER
    cue = pattern.search(sentence, term.end)
    if (
        cue is None
        or (cue["denial"] and STAYS.search(sentence, cue.end(), next_start))
        or STATEMENT.search(sentence, term.end, cue.start())
        or _has_other_subject(sentence, term, cue)
    ):
        return None
    return Status.UNCERTAIN if cue["doubt"] else Status.NEGATIVE


def _alternatives(sentence: str, terms: Sequence[Term]) -> set[int]:
    """Return which terms stand in 'A or B' and thus are asserted neither way."""
    findings = [i for i, term in enumerate(terms) if term.kind == "finding" and term.label != SUPPORT_DEVICES]
    if not re.search(OR, sentence):
        return set()
    found = {
        i
        for i in findings
        if OR_BEFORE.search(sentence, 0, terms[i].start) or OR_AFTER.match(sentence, terms[i].end)
    }
    for i, j in pairwise(findings):
        if terms[i].label != terms[j].label and OR_BETWEEN.fullmatch(sentence, terms[i].end, terms[j].start):
            found |= {i, j}
    for i, j in reversed(list(pairwise(findings))):
        if (
            j in found
            and terms[i].label not in DESCRIPTIONS
            and COMMA_BETWEEN.fullmatch(sentence, terms[i].end, terms[j].start)
        ):
            found.add(i)
    return {i for i in found if "#" not in sentence[: terms[i].start]}


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
    Where one of a pair is spoken of by its side alone, it stays or goes (`STAYS`, `GONE`).
    """
    marks = list(SIDE.finditer(sentence))
    if not marks or not terms:
        return [""] * len(terms)
    stays, gone = list(STAYS.finditer(sentence)), list(GONE.finditer(sentence))
    alone = [(phrase.start(), phrase.end()) for phrase in (*stays, *gone)]
    plain = [mark for mark in marks if not any(start <= mark.start() < end for start, end in alone)]
    groups = _touching(terms)
    cuts = [0, *(_cut(sentence, first, second) for first, second in pairwise(groups)), len(sentence)]
    ends = [*(group[0].start for group in groups[1:]), len(sentence)]
    sides: list[str] = []
    side, last_end = "", -1
    for group, (start, cut), end in zip(groups, pairwise(cuts), ends, strict=True):
        first, last = group[0].start, group[-1].end
        own = _sides(plain, start, last) or _sides(plain, last, cut)
        if there := _within(stays, last, end):
            resolved = AFTER.search(sentence, last, there[0].start())
            kept = (resolved is None or resolved["doubt"]) and "only" not in sentence[last : there[0].start()]
            own = (own if kept else set()) | _of(there)
        own -= _of(_within(gone, last, end))
        own = own or _sides(marks, start, last) or _sides(marks, last, cut)
        joined = last_end >= 0 and (
            JOINT.fullmatch(sentence, last_end, first) or SAME.search(sentence, last, end)
        )
        if joined and own and not sides[-1] and not _sides(plain, start, last):
            sides[-1] = "bilateral" if len(own) > 1 else next(iter(own))  # "A and B at the right apex"
        side, last_end = ("bilateral" if len(own) > 1 else own.pop()) if own else side if joined else "", last
        sides += [side] * len(group)
    return ["" if term.label in WITHOUT_SIDE else side for term, side in zip(terms, sides, strict=True)]


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


def _within(phrases: Sequence[re.Match[str]], start: int, end: int) -> list[re.Match[str]]:
    return [phrase for phrase in phrases if start <= phrase.start() and phrase.end() <= end]


def _of(phrases: Sequence[re.Match[str]]) -> set[str]:
    return {str(mark.lastgroup) for phrase in phrases for mark in SIDE.finditer(phrase.group())}


def _sides(marks: Sequence[re.Match[str]], start: int, end: int) -> set[str]:
    found = {str(mark.lastgroup) for mark in _within(marks, start, end)}
    return {"left", "right"} if "bilateral" in found else found
