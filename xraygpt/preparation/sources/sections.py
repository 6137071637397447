r"""The sections of a report: MIMIC-CXR's by the rule of MIT-LCP's published parser, others by known names.

A report of MIMIC-CXR is plain text whose lines begin with one blank. A section begins with its name in
capitals and a colon; of several sections of one name the last that holds text counts. Names are normalised:
``REASON FOR EXAM`` is an indication, ``CONCLUSION`` an impression, ``CHEST, TWO VIEWS`` findings. A report
with neither findings nor impression has its text below the last header, which is then split: the first
paragraph belongs to the header, the rest is the ``last_paragraph``.

Source: ``section_parser.py`` and ``create_section_files.py`` of https://github.com/MIT-LCP/mimic-cxr.

What differs, on purpose:

- The typing errors that the published table lists (``IMPRESSON``, ``FINIDNGS``, ...) are one mistake away
  from the name they mean; here every such name is recognised. The table takes ``NDICATION`` for an
  impression; here it is an indication.
- What begins with ``REASON FOR`` and is not in the table is an indication, whatever words follow.
- An empty section never hides an earlier one of its name; there this is so for findings and impression.
- An addendum above a line of underscores is a section of its own, not part of what precedes the first
  header; its own headed sections count where the report below the line has none of that name.
- A report that is a single paragraph without a header is its own ``last_paragraph``.
- The published parser corrects 54 of the 227,835 reports by hand, by study number. These corrections give one
  text and no sections, so they cannot be used here; such a report has the sections that the rule finds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

FINDINGS = "findings"
IMPRESSION = "impression"
ADDENDUM = "addendum"
PREAMBLE = "preamble"
"""What stands above the first header, titles left out."""
LAST_PARAGRAPH = "last_paragraph"

VARIANTS: dict[str, tuple[str, ...]] = {
    IMPRESSION: ("conclusion", "findings and impression", "findings/impression", "findings/ impression"),
    FINDINGS: ("finding", "reference findings"),
    "comparison": ("comparisons", "reference exam", "comparison exam", "comparison film"),
    "indication": ("reason for examination", "reason for exam", "clinical indication"),
    "history": ("clinical history", "clinical information", "patient history", "pfi"),
    "examination": ("exam", "type of examination"),
    "recommendations": ("recommendation", "recommendation(s)"),
    "wet read": ("wetread",),
    "technique": (),
}
"""Normalised name -> names that mean the same."""
CONTAINED = (IMPRESSION, FINDINGS, "history", "comparison", ADDENDUM)
"""A longer name that contains one of these is that section; the first one decides."""

_HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s")
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n")
_ADDENDUM_LINE = re.compile(r"\n[ \t]*_{10,}[ \t]*(?=\n|$)")
_TITLE_LINE = re.compile(r"^[ \t]*(?:FINAL[ \t]+)?(?:REPORT|ADDENDUM)[ \t]*$", re.MULTILINE)
_STUDY_DESCRIPTION = re.compile(
    r"chest|portable|ribs|bone window|two views|one view"
    r"|(?:pa|ap|lateral|frontal) view|frontal and|frontal (?:semi-)?upright"
    r"|(?:pa|ap) and lat|lateral and (?:pa|ap)"
)
"""Names that describe the whole study, such as ``PORTABLE CHEST``, head the findings."""
_KNOWN = {variant: name for name, variants in VARIANTS.items() for variant in (name, *variants)}
_OFTEN_MISTYPED = (IMPRESSION, "conclusion", FINDINGS, "comparison", "comparisons", "indication")
_NAME = (
    "findings?(?: and impression)?|impressions?|conclusions?|comparisons?|indications?|techniques?|history"
    "|exam(?:ination)?|(?:clinical|patient) (?:history|information|indication)|reason for exam(?:ination)?"
    "|recommendations?"
)
_ANY_HEADER = re.compile(rf"(?:^|(?<=[.!?:;\n]))[\s*_#]*\b({_NAME})\b[ *_]*:[ *_]*", re.IGNORECASE)
"""A name of a section with a colon, at the beginning, in a new line or after the end of a sentence."""


def parse_sections(text: str) -> dict[str, str]:
    """Return the sections of a report.

    Args:
        text: the whole file; any kind of line end.

    Returns:
        Normalised name in lower case -> text, whitespace joined; no section is empty.
    """
    text = "\n" + text.replace("\r\n", "\n").replace("\r", "\n")
    above, report = _split_addendum(text)
    parts = [(ADDENDUM if name == PREAMBLE else name, part) for name, part in _headed(above)]
    below = list(_headed(report))
    if not any(name in (IMPRESSION, FINDINGS) for name, _ in (*parts, *below)):
        below = _with_last_paragraph(below)
    joined = ((name, " ".join(part.split())) for name, part in (*parts, *below))
    return {name: part for name, part in joined if part}


def split_report(text: str) -> dict[str, str]:
    """Return section -> text, whitespace joined.

    Headers are known names with a colon, in capitals or not (``FINDINGS:``, ``Impression:``,
    ``Conclusion:``); two of the same section are joined. A text without any header is the findings, whole:
    what it is then used for is a matter of the cleaning rules, which by default ask for an impression too.
    """
    headers = list(_ANY_HEADER.finditer(text))
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


@lru_cache(maxsize=4096)
def section_name(header: str) -> str:
    """Return the normalised name of a header, in lower case; an unknown one keeps its words."""
    name = " ".join(header.lower().split())
    if name in _KNOWN:
        return _KNOWN[name]
    for contained in CONTAINED:
        if contained in name:
            return contained
    for meant in _OFTEN_MISTYPED:
        if _one_mistake_apart(name, meant):
            return _KNOWN[meant]
    if name.startswith("reason for "):
        return "indication"
    return FINDINGS if _STUDY_DESCRIPTION.search(name) else name


def _one_mistake_apart(name: str, meant: str) -> bool:
    """Whether one letter too many, too few or wrong, or two neighbours swapped, make the difference."""
    if abs(len(name) - len(meant)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(name, meant, strict=False)) if a != b), None)
    if start is None:
        return len(name) != len(meant)
    rest, meant_rest = name[start:], meant[start:]
    swapped = rest[1::-1] + rest[2:]
    return meant_rest in (rest[1:], swapped) or meant_rest[1:] in (rest, rest[1:])


def _split_addendum(text: str) -> tuple[str, str]:
    """Return what stands above the last line of underscores, and the report below it."""
    lines = list(_ADDENDUM_LINE.finditer(text))
    if not lines or not text[lines[-1].end() :].strip():
        return "", text
    return _ADDENDUM_LINE.sub("\n", text[: lines[-1].start()]), text[lines[-1].end() :]


def _headed(text: str) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of what stands above the first header, and then of each headed section.

    Findings and impressions without text are left out: a headline of the report may look like their header.
    """
    header = _HEADER.search(text)
    yield PREAMBLE, _TITLE_LINE.sub("", text[: header.start()] if header else text)
    while header:
        # The next header is not looked for in the same line, nor in the one below if this line is empty.
        line_end = text.find("\n", header.end())
        following = _HEADER.search(text, max(line_end, header.end()))
        name, part = section_name(header[1]), text[header.end() : following.start() if following else None]
        if part.strip() or name not in (IMPRESSION, FINDINGS):
            yield name, part
        header = following


def _with_last_paragraph(parts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Split the text of the last section at the end of its first paragraph."""
    name, text = parts[-1]
    if name == PREAMBLE:
        text = text.strip()
    first, *others = _PARAGRAPH_END.split(text, maxsplit=1)
    if name == PREAMBLE and not others:
        return [(LAST_PARAGRAPH, first)]
    return [*parts[:-1], (name, first), *((LAST_PARAGRAPH, other) for other in others)]
