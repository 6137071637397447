"""Scores of reports on synthetic phantoms, whose findings are read with side, size and zone.

For phantoms only: the rules of ``xraygpt.evaluation.findings`` recover the truth of their reports exactly and
know no other language.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xraygpt.evaluation.findings import extract_detailed_findings, extract_findings
from xraygpt.evaluation.metrics.metric import (
    Array,
    Metric,
    count_set_matches,
    f1_of_counts,
    mean_of_values,
    with_counts,
)


def _counts_of(read: Callable[[str], set[str]]) -> Callable[[Sequence[str], Sequence[str]], Array]:
    def statistics(references: Sequence[str], hypotheses: Sequence[str]) -> Array:
        return count_set_matches([*map(read, references)], [*map(read, hypotheses)])

    return statistics


def _f1(sums: Array) -> Array:
    """1 where nothing is there and nothing was found: a normal phantom, read as such."""
    return f1_of_counts(sums, 1.0)


def _exact(references: Sequence[str], hypotheses: Sequence[str]) -> Array:
    pairs = zip(references, hypotheses, strict=True)
    return with_counts([extract_findings(r) == extract_findings(h) for r, h in pairs])


PHANTOM: tuple[Metric, ...] = (
    Metric(
        name="phantom_f1",
        title="phantom finding F1",
        equals="micro-F1 of the findings asserted, with side; synthetic phantoms only",
        statistics=_counts_of(extract_findings),
        score=_f1,
    ),
    Metric(
        name="phantom_f1_detailed",
        title="phantom finding F1, with size and zone",
        equals="micro-F1 of the findings asserted, with side, size and zone; synthetic phantoms only",
        statistics=_counts_of(extract_detailed_findings),
        score=_f1,
    ),
    Metric(
        name="phantom_exact",
        title="phantom reports without error",
        equals="share of reports whose findings, with side, are the reference's; synthetic phantoms only",
        statistics=_exact,
        score=mean_of_values,
    ),
)
