"""The tokens that metrics are taken on: those of COCO, without Java, and those of other protocols.

COCO cuts text with the PTBTokenizer of Stanford CoreNLP 3.4.1 (``-preserveLines -lowerCase``) and drops
punctuation. These are its rules for what reports hold: sentences, abbreviations, numbers and dates, hyphens,
slashes, apostrophes, brackets, removed identifiers (``XXXX``, ``___``), letters of any script. As there, the
rule with the longest match cuts the next token. Telephone numbers, smileys, apostrophes inside of words
(``y'all``) and tags with spaces in them are cut otherwise than there; ``benchmarks.text_metrics`` counts the
reports that differ.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from xraygpt.evaluation.labeller import CACHED_TEXTS

Tokenize = Callable[[str], Sequence[str]]

PUNCTUATION = re.compile(r"[`\"?!,:;«»]|''?|-+|\.+")
"""What COCO drops; not among it are brackets, ``/``, ``%``, ``??`` and other signs."""

WRITTEN_AS = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "½": "1/2", "¼": "1/4", "¾": "3/4",
    "–": "--", "—": "--", "…": "...",
}  # fmt: skip
"""Tokens that PTBTokenizer writes otherwise than the text."""
_BEFORE = (
    ("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&nbsp;", " "), ("&amp;", "&"),
    ("’", "'"), ("‘", "'"), ("“", '"'), ("”", '"'), ("\u00ad", ""),
)  # fmt: skip

_ABBREVIATION = (
    "adj|adm|adv|al|ala|alex|apr|ariz|assn|asst|atty|aug|ave|bhd|bldg|blvd|brig|bros|capt|cf|cie|cmdr|co|col"
    "|colo|conn|corp|cos|cpl|ct|dak|dec|dept|det|dr|drs|elec|ens|esq|est|etc|ext|feb|fla|fri|ft|ga|gen|gov|govs"
    "|hon|inc|ind|insp|intl|invt|jan|jos|jr|jul|jun|kan|kans|ky|lt|ltd|maj|mar|md|messrs|mich|minn|mlle|mme|mo"
    "|mon|mont|mr|mrs|ms|msgr|mt|natl|neb|nev|nov|oct|okla|penn|pfc|ph|plc|pres|prof|pvt|rd|rep|reps|rev|rt|sen"
    "|sens|sep|sept|seq|sfc|sgt|spc|sq|sr|st|ste|supt|sys|tel|tenn|thu|tue|tues|univ|va|vs|vt|wed|wis|wisc|wm"
    "|wyo"
)
"""Words that keep their point, in any letter case: ``CT.`` at the end of a sentence is not the token ``CT``
(Court, for PTBTokenizer)."""
_CAPITAL_ABBREVIATION = (
    "A[zZ]|A[rR][kK]|D[eE][lL]|I[lL][lL]|L[aA]|M[aA][sS][sS]|M[iI][sS][sS]|O[rR][eE]|P[aA]|T[eE][xX]"
    "|W[aA][sS][hH]"
)
"""Those that keep it with a capital only: ``Mass.`` (Massachusetts) and ``MASS.``, but not ``mass.``."""
_LOWER_ABBREVIATION = "[mM]fg|[mM]tg|[pP]te|[pP]ty|[pP]pte|[pP]pty|[pP]tes|[pP]tys"
_NUMBERED = "nos?|figs?|arts?|pp?|ca"
"""Abbreviations where a number follows: ``No. 5``, ``fig. 2``."""
_STARTER = (
    "a|an|as|at|he|if|in|it|so|we|but|her|now|one|our|she|the|yet|you|here|last|many|more|once|some|such|that"
    "|then|they|this|what|when|about|according|additionally|after|earlier|however|other|since|their|there|these"
    "|while"
)
"""Words that begin a sentence, so that ``segment A. The ...`` ends one."""
_WITH_CAPITAL = "|".join(f"{word.capitalize()}|{word.upper()}" for word in _STARTER.split("|"))
STARTER = re.compile(rf"(?:{_WITH_CAPITAL})(?!\S)")

_NOT_LETTERS = r"\W_²³¹¼½¾⁰-₟"
_L = rf"(?:[^{_NOT_LETTERS}\d]|[\u0300-\u036f])"
_A = rf"(?:[^{_NOT_LETTERS}]|[\u0300-\u036f])"
_ASCII = "[A-Za-z0-9]"
_NUMBER = r"[+-]?(?:\d*(?:[.:,]\d+)+|\d+)"
_ADDRESS = r"[^\s\"<>|()]+[^\s\"<>|.!?(){},-]"
_RULES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_L}{_A}*(?:[.!?]{_L}{_A}*)*",  # heart; normal.The, where a space is missing
        rf"{_A}+(?:[_@]{_A}+)*",  # 8mm, 3x4
        _NUMBER,  # 3.5, 12:30, 10,000
        rf"{_A}+(?:-{_A}+)+",  # x-ray, T12-L1, 5-10
        rf"{_ASCII}[A-Za-z0-9.,]*(?:-(?:{_ASCII}+|[A-Za-z](?:\.[A-Za-z])+\.))+",  # 1.5-cm
        rf"{_ASCII}+(?:-[A-Za-z]+){{0,2}}(?:/{_ASCII}+(?:-[A-Za-z]+){{0,2}}){{1,2}}",  # and/or, 10/12/2004
        rf"(?:{_ASCII}[A-Za-z0-9.,]*(?:-{_ASCII}+)+|{_A}+)\.(?=[,;:])",  # the point in: 2., and cm.;
        r"[A-Za-z](?:\.[A-Za-z])+\.|[Pp]h\.D\.",  # a.m., U.S.
        rf"(?:(?i:{_ABBREVIATION})|{_CAPITAL_ABBREVIATION}|{_LOWER_ABBREVIATION})\.",
        rf"(?i:{_NUMBERED})\.(?= ?\d)",
        r"[A-Za-z]\.(?! The)",  # Dr. A. Smith; ends the sentence in: segment A. The ...
        rf"[oO]'{_L}{_L}+",  # o'clock
        r"[A-Z]+(?:[+&][A-Z]+)+",  # R&D
        r"</?[A-Za-z!?][^<>]*>",  # a tag
        rf"'(?:(?i:s|re|ve|ll|d|m)|\d\ds?)(?!{_A}|')",  # patient 's, '04
        r"\d{1,4}-\d{1,4}/\d{1,4}",  # 1-1/2
        rf"https?://{_ADDRESS}",
        rf"(?:www\.(?:[^\s\"<>|.!?(){{}},]+\.)+[A-Za-z]{{2,4}}|(?:\w+\.)+(?:com|net|org|edu))(?:/{_ADDRESS})?",
        r"[A-Za-z0-9][^\s\"<>|(){}]*@(?:[^\s\"<>|(){}.]+\.)*[^\s\"<>|(){}\[\].,;:]+",  # an e-mail address
        r"@[A-Za-z_]\w*|\#[A-Za-z]+",
        r"_+|[?!]+|\*+|\#+|-+|\.{3,}|''",
        r".",
    )
)
_TWO_WORDS = ("can not", "gon na", "got ta", "lem me", "gim me", "wan na", "'t is", "'t was")
_JOINED = "|".join(rf"{pair.replace(' ', '(?=')}(?!{_A}|-))" for pair in _TWO_WORDS)
_FIRST = re.compile(rf"(?i:{_L}+?(?=n't(?!{_A}))|n't(?!{_A})|{_JOINED})")
"""Cut where a longer match exists: ``does n't``, ``can not``."""


@lru_cache(maxsize=CACHED_TEXTS)
def coco_tokens(text: str) -> tuple[str, ...]:
    """Return the tokens of a text in lower case, without punctuation."""
    for written, meant in _BEFORE:
        text = text.replace(written, meant)
    tokens: list[str] = []
    for piece, following in pairwise([*text.split(), ""]):
        context = ""
        if piece.endswith("."):  # an example of what follows behind the space, so that there are few to cache
            context = " The" if STARTER.match(following) else " 1" if following[:1].isdigit() else ""
        tokens += _cut(piece, context)
    return tuple(tokens)


@lru_cache(maxsize=1 << 16)
def _cut(piece: str, context: str) -> tuple[str, ...]:
    """Return the tokens of a text without white space."""
    place, tokens = 0, []
    while place < len(piece):
        first = _FIRST.match(piece + context, place)
        matches = [first] if first else [rule.match(piece + context, place) for rule in _RULES]
        token = max((match.group() for match in matches if match), key=len)
        place += len(token)
        written = WRITTEN_AS.get(token, token).lower()
        # Control and format characters and emoji are deleted by PTBTokenizer.
        untokenizable = len(written) == 1 and (
            ord(written) > 0xFFFF or unicodedata.category(written) in ("Cc", "Cf")
        )
        if not PUNCTUATION.fullmatch(written) and not untokenizable:
            tokens.append(written)
    return tuple(tokens)


def r2gen_text(text: str) -> str:
    """Return what authors in the line of R2Gen score: lower case, each full stop a word, no more.

    Reports that R2Gen's tokenizer has cleaned and decoded (``the heart is normal . no effusion .``) stay as
    they are.
    """
    return re.sub(r"\s+", " ", text.strip().lower().replace(".", " ."))


def r2gen_tokens(text: str) -> list[str]:
    """Return its words."""
    return r2gen_text(text).split()


def rexrank_tokens(text: str) -> list[str]:
    """Return the tokens of ``prep_reports`` of CXR-Report-Metric, by which ReXrank computes BLEU.

    Blanks alone separate words there: a line break (here ``¶``) is a letter of the word that it makes of two.
    """
    return re.sub(r"[^\S ]", "¶", text.lower()).replace(".", " .").split()


class Words(NamedTuple):
    """What COCO's metrics are taken on; numbers of different preparation have different names."""

    prefix: str
    suffix: str
    """Of the metrics' titles, as `prefix` is of their names."""
    tokenize: Tokenize
    how: str
    """In words, for the protocol."""


PTB = Words(
    "",
    "",
    coco_tokens,
    "lower case, tokens of its PTBTokenizer (but for telephone numbers, smileys, words as y'all, and tags "
    "with spaces), without punctuation",
)
R2GEN = Words(
    "r2gen_",
    " (R2Gen)",
    r2gen_tokens,
    "lower case, full stops spaced out as words, split at white space, no PTBTokenizer",
)
