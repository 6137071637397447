"""Agreement on findings with their side, and how often sides are confused.

A report's findings are the pairs (class, side) that it asserts, ``left`` or ``right``; both where it says
bilateral; and (class, "") where it gives a class no side, so *effusion* for *left effusion* is one miss and
one false alarm. "No Finding" is none.
"""

from __future__ import annotations

from collections.abc import Sequence

from xraygpt.evaluation.labeller_sides import WITHOUT_SIDE
from xraygpt.evaluation.metrics.counts import count_set_matches, micro_f1
from xraygpt.evaluation.metrics.metric import Array, Metric
from xraygpt.evaluation.readings import read_report

SIDES = ("left", "right", "bilateral", "unspecified")
"""Rows (reference) and columns (generated) of `side_confusion`."""


def sided_findings(text: str) -> frozenset[tuple[str, str]]:
    """Return the (class, side) pairs that a report asserts."""
    return frozenset(
        (label, side) for label, sides in read_report(text).sides.items() for side in sides or ("",)
    )


def side_confusion(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return how often a finding of the reference's side was reported on each side.

    Only classes that both reports of a pair assert, and that can have a side, are counted, each once per
    pair: ``result["left"]["right"]`` findings are left in the reference and right in the generated report.
    """
    table = {row: dict.fromkeys(SIDES, 0) for row in SIDES}
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        truth, found = read_report(reference).sides, read_report(hypothesis).sides
        for label in truth.keys() & found.keys() - set(WITHOUT_SIDE):
            table[_side_name(truth[label])][_side_name(found[label])] += 1
    return table


def _side_name(sides: frozenset[str]) -> str:
    if len(sides) > 1:
        return "bilateral"
    return next(iter(sides), "unspecified")


def _statistics(references: Sequence[str], hypotheses: Sequence[str]) -> Array:
    return count_set_matches([*map(sided_findings, references)], [*map(sided_findings, hypotheses)])


LATERALITY_F1 = Metric(
    name="laterality_f1",
    title="finding F1 with side",
    equals=(
        "micro-F1 of the (class, side) pairs asserted, 13 CheXpert classes as this project's rule labeller "
        "reads them; a class without a side is a pair of its own"
    ),
    statistics=_statistics,
    score=micro_f1,
    english_only=True,
)
