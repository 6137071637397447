"""Findings of synthetic phantoms, read with side, size and zone, and the scores of reports by them.

The rules are made for the language of the phantom reports (``xraygpt.datasets.phantom.report``), from which
they recover the truth exactly; they know no other. They read each sentence on its own and take the union over
the report, so a report that says 'left' in its findings and 'right' in its impression is held to both.
"""

from __future__ import annotations

import re
from itertools import pairwise

from xraygpt.evaluation.metrics.metric import Metric, f1_of_sets, mean_over_pairs

FINDING_PATTERNS = {
    "cardiomegaly": r"cardiomegaly|(?:heart|silhouette) is enlarged|enlarged heart",
    "pulmonary edema": r"edema",
    "hyperinflation": r"hyperinflat",
    "consolidation": r"consolidation",
    "nodule": r"nodule",
    "pleural effusion": r"effusion",
    "pneumothorax": r"pneumothorax",
    "pacemaker": r"pacemaker",
    "central line": r"central line",
    "sternotomy wires": r"sternotomy",
}
LATERAL_FINDINGS = ("consolidation", "nodule", "pleural effusion", "pneumothorax")
ATTRIBUTES = r"small|moderate|large|upper|mid|lower"
NEGATION = re.compile(r"\b(?:no|not|without|normal)\b")
SENTENCE_END = re.compile(r"[.;]\s*|\b(?:impression|findings):\s*", re.IGNORECASE)


def extract_findings(report: str) -> set[str]:
    """Return the findings that a report asserts, e.g. ``{"cardiomegaly", "left pleural effusion"}``.

    A finding that has a side but is reported without one is given as ``unspecified <finding>``.
    """
    return {f"{side} {name}" if side else name for name, side, _ in _assertions(report)}


def extract_detailed_findings(report: str) -> set[str]:
    """Like `extract_findings`, with size and zone, e.g. ``{"small left pleural effusion"}``."""
    phrases = ((*details, side, name) for name, side, details in _assertions(report))
    return {" ".join(word for word in phrase if word) for phrase in phrases}


def split_phantom_sentences(report: str) -> list[str]:
    """Cut a report where the rules do; the pieces put together are the report."""
    ends = [0, *(match.end() for match in SENTENCE_END.finditer(report)), len(report)]
    return [report[a:b] for a, b in pairwise(ends) if b > a]


def _assertions(report: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return the name, side and details of each finding that is asserted."""
    found = []
    for sentence in SENTENCE_END.split(report.lower()):
        if not sentence or NEGATION.search(sentence):
            continue
        for name, pattern in FINDING_PATTERNS.items():
            if not re.search(pattern, sentence):
                continue
            details = tuple(sorted(set(re.findall(rf"\b(?:{ATTRIBUTES})\b", sentence))))
            lateral = name in LATERAL_FINDINGS
            sides = re.findall(r"\b(left|right)\b", sentence) if lateral else [""]
            found += [(name, side, details if lateral else ()) for side in sides or ["unspecified"]]
    return found


F1 = "micro-F1 of the findings asserted, with {}; synthetic phantoms only"
# A normal phantom, read as such, has an F1 of 1.
PHANTOM: tuple[Metric, ...] = (
    f1_of_sets("phantom_f1", "phantom finding F1", F1.format("side"), extract_findings, of_nothing=1.0),
    f1_of_sets(
        "phantom_f1_detailed",
        "phantom finding F1, with size and zone",
        F1.format("side, size and zone"),
        extract_detailed_findings,
        of_nothing=1.0,
    ),
    Metric(
        name="phantom_exact",
        title="phantom reports without error",
        equals="share of reports whose findings, with side, are the reference's; synthetic phantoms only",
        statistics=mean_over_pairs(lambda r, h: extract_findings(r) == extract_findings(h)),
        heading="Findings",
    ),
)
