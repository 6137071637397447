"""Cut a report into sections and sentences: for people (`split_sentences`), and for the labeller, which needs
the place of every character and its own, finer cuts (`split_report`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NO_END = re.compile(
    r"(?:\b(?:dr|drs|mr|mrs|ms|prof|st|vs|cf|approx|fig|e\.g|i\.e|a\.m|p\.m)|\bDr\. [A-Z])\.$", re.IGNORECASE
)
"""A word that ends in a point in the middle of a sentence."""
BOUNDARY = re.compile(
    r"""(?<=[.!?])["')\]]*\s+(?=\S)        # a point and a space
      | (?<=[a-z)]{2}\.)(?=[A-Z][a-z]+\s)  # a point without the space: "... in the left apex.There are ..."
      | \n\s*\n                            # an empty line
    """,
    re.VERBOSE,
)
ITEM = re.compile(r"(?:^|(?<=\s))\(?(\d{1,2})(?:\.\)?|\)),?(?:\s*(?=[A-Z(_\"])|\s+(?=\d))")
"""The number of an item in a list: ``1. No acute disease. 2. Stable ...``; never that of ``2.5 cm``."""


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a report, without the numbers of lists, white space joined.

    A point does not end a sentence in a decimal number, after a title or an abbreviation (``Dr. Doe``,
    ``e.g. a granuloma``) and after ``a.m.`` unless a capitalised word follows.
    """
    return [
        sentence
        for item in _items(text.strip())
        for piece in _pieces(item)
        if (sentence := " ".join(piece.split())) and not re.fullmatch(r"\W*", sentence)
    ]


def _items(text: str) -> list[str]:
    """Cut where the numbers of a list are; a number belongs to a list only where it goes on counting."""
    items, begin, expected = [], 0, 1
    for match in ITEM.finditer(text):
        number = int(match.group(1))
        if number == expected or text[: match.start()].strip() == "":
            items.append(text[begin : match.start()])
            begin, expected = match.end(), number + 1
    return [*items, text[begin:]]


def _pieces(text: str) -> list[str]:
    pieces, begin = [], 0
    for match in BOUNDARY.finditer(text):
        before, after = text[begin : match.start()].rstrip("\"')]"), text[match.end() :]
        if (abbreviation := NO_END.search(before)) and not (
            abbreviation.group().lower() in ("a.m.", "p.m.") and re.match(r"[A-Z][a-z]", after)
        ):
            continue
        pieces.append(text[begin : match.start()] + match.group().strip())
        begin = match.end()
    return [*pieces, text[begin:]]


OTHER_SECTIONS = (
    r"ind(?:ications?)?|(?:clinical |patient |brief |past medical )?history|"
    r"clinical (?:information|indication|data|statement)|"
    r"reason for (?:the |this )?(?:exam(?:ination)?|study)|comparisons?|reference exam|techniques?|"
    r"exam(?:ination)?s?|procedures?|notifications?|(?:type|date|time) of exam"
)
"""Headers of sections that say why or how the images were taken, not what is seen."""
IMAGE_SECTIONS = r"findings?|impressions?|conclusions?|interpretation|report|opinion|(?:wet|preliminary) read"
HEADER = re.compile(
    rf"(?i: {{0,8}}\b(?:(?P<other>{OTHER_SECTIONS})|"
    rf"(?:{IMAGE_SECTIONS})(?:(?: and |/)(?:{IMAGE_SECTIONS}))?)\s*:)"
    r"|^ {0,8}[A-Z][A-Z ,/&()-]{3,60}:",
    re.MULTILINE,
)
PARAGRAPH_END = re.compile(r"(?<=[^\s:])\s*\n\s*\n")
PRONOUN = (
    r"(?i:\s+(?:but )?(?:that|those|the (?:one|other|former|latter)|(?:the )?(?:left|right)(?: one| side)? "
    r"(?:has|is|persists|remains)\b))"
)
"""What follows speaks of the finding before: 'the left effusion has gone; that on the right persists'."""
SENTENCE_END = re.compile(
    rf"(?<!\bvs)[.!]+(?=\s|$|[A-Z])(?!{PRONOUN})|(?<=\w\?)(?=\s)|;(?!{PRONOUN})|\n\s*\n"
    r"|\n(?=\s*(?:[-*•]|[0-9]{1,2}[.)])\s)|(?<=\s)(?=[0-9]{1,2}[.)]\s+[A-Z])"  # items of a list
)
LONGEST = 1000
"""Characters; longer text without a full stop is not prose, and would take long."""
WHITESPACE = re.compile(r"\s{2,}|[\n\t\r]")
LOWER = {ord(letter): letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence in lower case with single spaces."""

    text: str
    places: Sequence[int]
    """Where each of its characters stands in the report, and where the sentence ends: one more than
    there are characters."""


def split_report(report: str) -> Iterator[Sentence]:
    """Yield the sentences of the sections that describe the images."""
    for section_start, section_end in image_sections(report):
        section = report[section_start:section_end]
        start = 0
        for end in [*SENTENCE_END.finditer(section), None]:
            stop = len(section) if end is None else end.start()
            for piece in range(start, stop, LONGEST):
                yield _sentence(section[piece : min(piece + LONGEST, stop)], section_start + piece)
            start = stop if end is None else end.end()


def image_sections(report: str) -> Iterator[tuple[int, int]]:
    """Yield where the text between headers lies; a section about other things ends with its paragraph.

    Where it has the only header of the report and no paragraph ends, it ends with its first sentence.
    """
    start, other = 0, False
    headers = [*HEADER.finditer(report)]
    for header in [*headers, None]:
        end = len(report) if header is None else header.start()
        if other:
            paragraph = PARAGRAPH_END.search(report, start, end)
            sentence = None if len(headers) > 1 else SENTENCE_END.search(report, start, end)
            start = next((found.end() for found in (paragraph, sentence) if found), end)
        if start < end:
            yield start, end
        if header is not None:
            start, other = header.end(), header["other"] is not None


def _sentence(raw: str, place: int) -> Sentence:
    lowered = raw.translate(LOWER)
    if not WHITESPACE.search(raw):
        return Sentence(lowered, range(place, place + len(raw) + 1))
    kept = [i for i, letter in enumerate(raw) if not (letter.isspace() and raw[i - 1 : i].isspace())]
    text = "".join(" " if raw[i].isspace() else lowered[i] for i in kept)
    return Sentence(text, [*(place + i for i in kept), place + len(raw)])
