"""Mark in a reference and a generated report what both assert, what was missed and what was invented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from xraygpt.evaluation.labeller import SIDES, Mention, Status
from xraygpt.evaluation.readings import read_report

Kind = Literal["agree", "missed", "invented"]


@dataclass(frozen=True, slots=True)
class Span:
    """Words of a report that assert one or more CheXpert classes."""

    start: int
    end: int
    """Behind the last character."""
    kind: Kind
    """``agree``: the other report asserts this as well; else ``missed`` in a reference, ``invented`` in a
    generated report."""
    label: str
    """The class, or the classes that the same words name, joined by commas."""
    side: str
    """``left``, ``right``, ``bilateral`` or ""."""


def highlight(reference: str, generated: str) -> tuple[list[Span], list[Span]]:
    """Return the spans of the reference and of the generated report, in order, without overlap.

    A mention agrees if the other report asserts its class, on all the sides that the mention names or
    without any side: a left effusion agrees with bilateral effusions, which do not agree with it.
    """
    truth, found = read_report(reference), read_report(generated)
    return _spans(truth.mentions, found.sides, "missed"), _spans(found.mentions, truth.sides, "invented")


def _spans(
    mentions: tuple[Mention, ...], other: Mapping[str, frozenset[str]], kind: Literal["missed", "invented"]
) -> list[Span]:
    spans: list[Span] = []
    for mention in mentions:
        if mention.status != Status.POSITIVE:
            continue
        span = Span(
            mention.start,
            mention.end,
            "agree" if _agrees(mention, other) else kind,
            mention.label,
            mention.side,
        )
        if spans and span.start < spans[-1].end:
            spans.append(_merged(spans.pop(), span, kind))
        else:
            spans.append(span)
    return spans


def _agrees(mention: Mention, other: Mapping[str, frozenset[str]]) -> bool:
    sides = other.get(mention.label)
    return sides is not None and (not sides or SIDES[mention.side] <= sides)


def _merged(first: Span, second: Span, kind: Kind) -> Span:
    """Put two classes of the same words together; one without agreement decides the kind."""
    return Span(
        first.start,
        max(first.end, second.end),
        first.kind if first.kind == second.kind else kind,
        f"{first.label}, {second.label}",
        first.side or second.side,
    )
