"""The examples on a page: which are shown, and each with the findings of its reports marked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.common.html_page import picture_url
from xraygpt.evaluation.labeller import SIDES, Status, find_mentions
from xraygpt.evaluation.metrics.metric import Metric
from xraygpt.evaluation.metrics.phantom import extract_findings, split_phantom_sentences
from xraygpt.evaluation.predictions import Prediction
from xraygpt.evaluation.scoring import name_hash

MAX_SIDE = 512
"""Pixels of a picture's longest side."""
MAX_COLUMNS = 4
"""Further columns of the predictions that are told below a picture, such as the view."""
LONGEST_VALUE = 40
"""Characters; a column with longer values holds texts of its own."""
ANY_TEXT = "any text"
"""What an empty report misses where there is no finding to miss."""
WIDER_SIDES = {"": ("left", "right", "bilateral"), "left": ("bilateral",), "right": ("bilateral",)}
"""Side -> sides of another mention of the same finding that say as much and more."""

Why = Literal["worst", "random", "different"]
Kind = Literal["agree", "missed", "invented"]
Pictures = Callable[[str], Image.Image | None]
"""Image id -> image; None where there is none to show. Raises DataError where it cannot be read."""


class Assertion(NamedTuple):
    """Words of a report that assert a finding."""

    start: int
    end: int
    label: str
    side: str = ""
    """``left``, ``right``, ``bilateral`` or ""."""

    @property
    def finding(self) -> str:
        """The finding as people say it: ``left pleural effusion``."""
        return f"{self.side} {self.label}".strip().lower()


Reader = Callable[[str], Sequence[Assertion]]
"""Report -> what it asserts, in the order of the text."""


class Piece(NamedTuple):
    """Some words of a report."""

    text: str
    kind: Kind | Literal[""] = ""
    """``agree``: all other reports assert this as well; else ``missed`` in a reference, ``invented`` in a
    generated report; "" for words that are no finding."""
    findings: Sequence[str] = ()
    """Those that decide the kind."""


@dataclass(frozen=True, slots=True)
class GeneratedReport:
    """A generated report, held against its reference."""

    name: str
    """Of its run."""
    pieces: list[Piece]
    """Put together they are the report; none of a blank one."""
    agreed: list[str]
    missed: list[str]
    invented: list[str]
    figures: Mapping[Metric, float]
    """Scores of this report alone."""


@dataclass(frozen=True, slots=True)
class Card:
    """One image with its reports."""

    prediction: Prediction
    """Of the first run."""
    chosen: Why
    picture: str | None
    """As a ``data:`` URL; "" for one that cannot be read, None where there is none."""
    columns: Mapping[str, str]
    """Those that are told."""
    reference: list[Piece]
    reports: list[GeneratedReport]
    """One of each run."""


def choose_examples(
    predictions: Sequence[Prediction], worst: Sequence[str], count: int
) -> list[tuple[Prediction, Why]]:
    """Choose reports to show, one of a study: half the worst, the rest by a hash of the image's name alone.

    Args:
        worst: image ids, the worst first.
    """
    by_image = {prediction.image_id: prediction for prediction in predictions}
    by_hash = sorted(predictions, key=lambda prediction: name_hash(prediction.image_id))
    chosen: dict[str, tuple[Prediction, Why]] = {}
    for name in worst:
        if len(chosen) < count // 2:
            chosen.setdefault(by_image[name].study_id, (by_image[name], "worst"))
    for prediction in by_hash:
        if len(chosen) < count:
            chosen.setdefault(prediction.study_id, (prediction, "random"))
    return list(chosen.values())


def make_cards(
    chosen: Sequence[tuple[Mapping[str, Prediction], Why]],
    metrics: Sequence[Metric],
    pictures: Pictures | None,
    read: Reader | None,
    *,
    missed_by_first: bool = False,
) -> list[Card]:
    """Make a card of each image.

    Args:
        chosen: of each image its prediction by each run, by the run's name, and why it is shown.
        metrics: by which each report is scored.
        read: finds what is marked; None to mark nothing.
        missed_by_first: mark in the reference what the first run misses, and not what any of them does.
    """
    read = read or (lambda text: [])
    told = _varying_columns([next(iter(runs.values())) for runs, _ in chosen])
    cards = []
    for runs, why in chosen:
        first = next(iter(runs.values()))
        try:
            picture = pictures(first.image_id) if pictures is not None else None
            url = picture_url(picture, MAX_SIDE) if picture is not None else None
        except DataError:
            url = ""
        columns = {name: value for name in told if (value := first.columns.get(name, ""))}
        held_against = [first] if missed_by_first else runs.values()
        reference = mark(first.reference, [row.generated for row in held_against], read, "missed")
        reports = [_report(name, row, metrics, read) for name, row in runs.items()]
        cards.append(Card(first, why, url, columns, reference, reports))
    return cards


def _report(name: str, row: Prediction, metrics: Sequence[Metric], read: Reader) -> GeneratedReport:
    truth, found = read(row.reference), read(row.generated)
    return GeneratedReport(
        name,
        pieces=mark(row.generated, [row.reference], read, "invented"),
        agreed=named(each for each in found if _agrees(each, truth)),
        missed=named(each for each in truth if not _agrees(each, found))
        or ([] if row.generated.strip() else [ANY_TEXT]),
        invented=named(each for each in found if not _agrees(each, truth)),
        figures={metric: metric([row.reference], [row.generated]) for metric in metrics},
    )


def _varying_columns(predictions: Sequence[Prediction]) -> list[str]:
    """Return the first columns that are short and not the same for all."""
    names = dict.fromkeys(name for row in predictions for name in row.columns)
    values = {name: {row.columns[name] for row in predictions if name in row.columns} for name in names}
    varying = [name for name, own in values.items() if len(own) > 1 and max(map(len, own)) <= LONGEST_VALUE]
    return varying[:MAX_COLUMNS]


def read_classes(text: str) -> list[Assertion]:
    """Read where a report asserts CheXpert's classes (a `Reader`)."""
    mentions = (mention for mention in find_mentions(text) if mention.status == Status.POSITIVE)
    return [Assertion(each.start, each.end, each.label, each.side) for each in mentions]


def read_phantom(text: str) -> list[Assertion]:
    """Read a phantom's report by the rules made for it (a `Reader`), sentence by sentence.

    These rules hold "left nodule" and "nodule" for different findings, so the side is part of the label.
    """
    assertions, start = [], 0
    for sentence in split_phantom_sentences(text):
        end = start + len(sentence.rstrip())
        assertions += [Assertion(start, end, finding) for finding in sorted(extract_findings(sentence))]
        start += len(sentence)
    return assertions


def mark(text: str, others: Sequence[str], read: Reader, kind: Kind) -> list[Piece]:
    """Cut a report into pieces, marked by whether all the other reports assert the same findings.

    Args:
        kind: of findings that another report does not assert.
    """
    if not text.strip():
        return []
    held_against = [read(other) for other in others]
    together: list[list[Assertion]] = []  # those of the same words
    for each in read(text):
        if together and each.start < max(assertion.end for assertion in together[-1]):
            together[-1].append(each)
        else:
            together.append([each])
    pieces, end = [], 0
    for group in together:
        before, start, end = end, group[0].start, max(each.end for each in group)
        alone = [each for each in group if not all(_agrees(each, other) for other in held_against)]
        findings = [each.finding for each in alone or group]
        pieces += [Piece(text[before:start]), Piece(text[start:end], kind if alone else "agree", findings)]
    return [piece for piece in [*pieces, Piece(text[end:])] if piece.text]


def _agrees(each: Assertion, others: Sequence[Assertion]) -> bool:
    """Return whether a report asserts the finding, on all the sides that `each` names or without any side.

    A left effusion agrees with bilateral effusions, which do not agree with it.
    """
    sides = [SIDES[other.side] for other in others if other.label == each.label]
    return bool(sides) and (not (said := set[str]().union(*sides)) or SIDES[each.side] <= said)


def named(assertions: Iterable[Assertion]) -> list[str]:
    """Return the different findings, each once: bilateral edema is not also left edema or edema."""
    said = {(each.label, each.side): each.finding for each in assertions}
    return sorted(
        {
            finding
            for (label, side), finding in said.items()
            if not any((label, wider) in said for wider in WIDER_SIDES.get(side, ()))
        }
    )
