"""The sections of a report that is one text with headers in it, as in anybody's own table."""

from __future__ import annotations

import re

from xraygpt.preparation.sources.mimic_sections import FINDINGS, PREAMBLE, section_name

_NAMES = (
    "findings?(?: and impression)?|impressions?|conclusions?|comparisons?|indications?|techniques?|history"
    "|exam(?:ination)?|(?:clinical|patient) (?:history|information|indication)|reason for exam(?:ination)?"
    "|recommendations?"
)
_HEADER = re.compile(rf"(?:^|(?<=[.!?:;\n]))[\s*_#]*\b({_NAMES})\b[ *_]*:[ *_]*", re.IGNORECASE)
"""A name of a section with a colon, at the beginning, in a new line or after the end of a sentence."""


def split_report(text: str) -> dict[str, str]:
    """Return section -> text, whitespace joined.

    Headers are known names with a colon, in capitals or not (``FINDINGS:``, ``Impression:``,
    ``Conclusion:``); two of the same section are joined. A text without any header is the findings, whole:
    what it is then used for is a matter of the cleaning rules, which by default ask for an impression too.
    """
    headers = list(_HEADER.finditer(text))
    if not headers:
        return {FINDINGS: " ".join(text.split())}
    ends = [*(header.start() for header in headers[1:]), len(text)]
    parts = [(PREAMBLE, text[: headers[0].start()])]
    parts += [
        (section_name(header[1]), text[header.end() : end]) for header, end in zip(headers, ends, strict=True)
    ]
    words: dict[str, list[str]] = {}
    for name, part in parts:
        words.setdefault(name, []).extend(part.split())
    return {name: " ".join(part) for name, part in words.items() if part}
