"""Cut the text of a report into sentences."""

from __future__ import annotations

import re

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
