"""Marks on the words of two reports that agree, were missed or were invented."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from xraygpt.evaluation.findings import extract_findings, split_sentences
from xraygpt.evaluation.labeller import SIDES, Mention, Status, read_report

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


WIDER_SIDES = {
    "": frozenset({"left", "right", "bilateral"}),
    "left": frozenset({"bilateral"}),
    "right": frozenset({"bilateral"}),
}
"""Side -> sides of another mention of the same finding that say as much and more."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some words of a report."""

    text: str
    kind: Kind | Literal[""]
    """"" for words that are no finding."""
    note: str
    """The finding, for people."""


def marked_pieces(text: str, spans: Iterable[Span]) -> list[Piece]:
    """Cut a report where its marked words begin and end; the pieces put together are the report.

    A report without any words has no piece.

    Args:
        spans: in order, without overlap.
    """
    if not text.strip():
        return []
    pieces = []
    end = 0
    for span in spans:
        pieces.append(Piece(text[end : span.start], "", ""))
        pieces.append(Piece(text[span.start : span.end], span.kind, f"{span.kind}: {finding_name(span)}"))
        end = span.end
    pieces.append(Piece(text[end:], "", ""))
    return [piece for piece in pieces if piece.text]


def finding_name(span: Span) -> str:
    """Return a finding as people say it: ``left pleural effusion``."""
    return f"{span.side} {span.label}".strip().lower()


def names_of(spans: Sequence[Span], kind: Kind) -> list[str]:
    """Return the different findings of a kind, each once: bilateral edema is not also left edema or edema."""
    sides: dict[str, set[str]] = {}
    for span in spans:
        if span.kind == kind:
            sides.setdefault(span.label, set()).add(span.side)
    return sorted(
        {
            finding_name(span)
            for span in spans
            if span.kind == kind and not sides[span.label] & WIDER_SIDES.get(span.side, frozenset())
        }
    )


def highlight_phantom(reference: str, generated: str) -> tuple[list[Span], list[Span]]:
    """Do what `highlight` does, with the rules made for phantoms' reports.

    Sentences are marked, since these rules read them as a whole.
    """
    truth, found = extract_findings(reference), extract_findings(generated)
    return _sentences(reference, found, "missed"), _sentences(generated, truth, "invented")


def no_marks(reference: str, generated: str) -> tuple[list[Span], list[Span]]:
    """Mark nothing: of reports in a language that no rules read."""
    return [], []


def _sentences(text: str, other: set[str], kind: Kind) -> list[Span]:
    spans = []
    begin = 0
    for sentence in split_sentences(text):
        findings = extract_findings(sentence)
        if findings:
            end = begin + len(sentence.rstrip())
            agreed = findings <= other
            names = findings if agreed else findings - other
            spans.append(Span(begin, end, "agree" if agreed else kind, ", ".join(sorted(names)), ""))
        begin += len(sentence)
    return spans
