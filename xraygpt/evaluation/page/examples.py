"""The examples on the page about an evaluation: which are shown, and each with its findings marked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.html_page import picture_url
from xraygpt.evaluation.labeller import SIDES, Mention, Status, find_mentions, finding_sides
from xraygpt.evaluation.metrics.metric import Metric
from xraygpt.evaluation.metrics.phantom import extract_findings, split_phantom_sentences
from xraygpt.evaluation.predictions import Prediction
from xraygpt.evaluation.scoring import name_hash
from xraygpt.pictures.reading import is_image_file, read_image

MAX_SIDE = 512
"""Pixels of a picture's longest side."""
MAX_COLUMNS = 4
"""Further columns of the predictions that are told below a picture, such as the view."""
LONGEST_VALUE = 40
"""Characters; a column with longer values holds texts of its own."""
ANY_TEXT = "any text"
"""What an empty report misses where there is no finding to miss."""

Why = Literal["worst", "random"]
Kind = Literal["agree", "missed", "invented"]
Pictures = Callable[[str], Image.Image | None]
"""Image id -> image; None where there is none to show. Raises DataError where it cannot be read."""


class Piece(NamedTuple):
    """Some words of a report."""

    text: str
    kind: Kind | Literal[""] = ""
    """``agree``: the other report asserts this as well; else ``missed`` in a reference, ``invented`` in a
    generated report; "" for words that are no finding."""
    label: str = ""
    """The finding, or the findings that the same words name, joined by commas."""
    side: str = ""
    """``left``, ``right``, ``bilateral`` or ""."""

    @property
    def finding(self) -> str:
        """The finding as people say it: ``left pleural effusion``."""
        return f"{self.side} {self.label}".strip().lower()


Marker = Callable[[str, str], tuple[list[Piece], list[Piece]]]
"""(reference, generated) -> the pieces of each, which put together are the report; none of a blank one."""


@dataclass(frozen=True, slots=True)
class Card:
    """One image with its two reports."""

    prediction: Prediction
    chosen: Why
    picture: str | None
    """As a ``data:`` URL."""
    unreadable: bool
    """There is a picture, but it cannot be read."""
    columns: Mapping[str, str]
    """Those that are told."""
    reference: list[Piece]
    generated: list[Piece]
    agreed: list[str]
    missed: list[str]
    invented: list[str]
    figures: Mapping[Metric, float]
    """Scores of this report alone."""


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


def example_cards(
    chosen: Sequence[tuple[Prediction, Why]],
    metrics: Sequence[Metric],
    pictures: Pictures | None,
    mark: Marker,
) -> list[Card]:
    """Make a card of each example that `choose_examples` gives, with its scores by `metrics`."""
    told = _varying_columns([prediction for prediction, _ in chosen])
    cards = []
    for prediction, why in chosen:
        picture, unreadable = None, False
        try:
            picture = pictures(prediction.image_id) if pictures is not None else None
        except DataError:
            unreadable = True
        reference, generated = mark(prediction.reference, prediction.generated)
        card = Card(
            prediction,
            why,
            picture=picture_url(picture, MAX_SIDE) if picture is not None else None,
            unreadable=unreadable,
            columns={name: value for name in told if (value := prediction.columns.get(name, ""))},
            reference=reference,
            generated=generated,
            agreed=names_of(generated, "agree"),
            missed=names_of(reference, "missed") or ([] if prediction.generated.strip() else [ANY_TEXT]),
            invented=names_of(generated, "invented"),
            figures={metric: metric([prediction.reference], [prediction.generated]) for metric in metrics},
        )
        cards.append(card)
    return cards


def _varying_columns(predictions: Sequence[Prediction]) -> list[str]:
    """Return the first columns that are short and not the same for all."""
    values: dict[str, set[str]] = {}
    for prediction in predictions:
        for name, value in prediction.columns.items():
            values.setdefault(name, set()).add(value)
    varying = [name for name, own in values.items() if len(own) > 1 and max(map(len, own)) <= LONGEST_VALUE]
    return varying[:MAX_COLUMNS]


def highlight(reference: str, generated: str) -> tuple[list[Piece], list[Piece]]:
    """Mark the mentions of CheXpert's classes (a `Marker`).

    A mention agrees if the other report asserts its class, on all the sides that the mention names or
    without any side: a left effusion agrees with bilateral effusions, which do not agree with it.
    """
    return (
        _pieces(reference, _mentions(find_mentions(reference), finding_sides(generated), "missed")),
        _pieces(generated, _mentions(find_mentions(generated), finding_sides(reference), "invented")),
    )


def highlight_phantom(reference: str, generated: str) -> tuple[list[Piece], list[Piece]]:
    """Do what `highlight` does, with the rules made for phantoms' reports.

    Sentences are marked, since these rules read them as a whole.
    """
    truth, found = extract_findings(reference), extract_findings(generated)
    return (
        _pieces(reference, _sentences(reference, found, "missed")),
        _pieces(generated, _sentences(generated, truth, "invented")),
    )


def no_marks(reference: str, generated: str) -> tuple[list[Piece], list[Piece]]:
    """Mark nothing: of reports in a language that no rules read."""
    return _pieces(reference, []), _pieces(generated, [])


class _Mark(NamedTuple):
    """Where words of a report assert a finding; see `Piece`."""

    start: int
    end: int
    kind: Kind
    label: str
    side: str = ""


def _mentions(mentions: Sequence[Mention], other: Mapping[str, frozenset[str]], kind: Kind) -> list[_Mark]:
    marks: list[_Mark] = []
    for mention in mentions:
        if mention.status != Status.POSITIVE:
            continue
        sides = other.get(mention.label)
        agrees = sides is not None and (not sides or SIDES[mention.side] <= sides)
        mark = _Mark(mention.start, mention.end, "agree" if agrees else kind, mention.label, mention.side)
        if marks and mark.start < marks[-1].end:
            # Two classes of the same words; one without agreement decides the kind.
            first = marks.pop()
            both = first.kind if first.kind == mark.kind else kind
            label = f"{first.label}, {mark.label}"
            mark = _Mark(first.start, max(first.end, mark.end), both, label, first.side or mark.side)
        marks.append(mark)
    return marks


def _sentences(text: str, other: set[str], kind: Kind) -> list[_Mark]:
    marks = []
    begin = 0
    for sentence in split_phantom_sentences(text):
        if findings := extract_findings(sentence):
            agreed = findings <= other
            names = ", ".join(sorted(findings if agreed else findings - other))
            marks.append(_Mark(begin, begin + len(sentence.rstrip()), "agree" if agreed else kind, names))
        begin += len(sentence)
    return marks


def _pieces(text: str, marks: Iterable[_Mark]) -> list[Piece]:
    """Cut a report where its marks, in order and without overlap, begin and end."""
    if not text.strip():
        return []
    pieces = []
    end = 0
    for mark in marks:
        pieces += [Piece(text[end : mark.start]), Piece(text[mark.start : mark.end], *mark[2:])]
        end = mark.end
    return [piece for piece in [*pieces, Piece(text[end:])] if piece.text]


WIDER_SIDES = {"": ("left", "right", "bilateral"), "left": ("bilateral",), "right": ("bilateral",)}
"""Side -> sides of another mention of the same finding that say as much and more."""


def names_of(pieces: Sequence[Piece], kind: Kind) -> list[str]:
    """Return the different findings of a kind, each once: bilateral edema is not also left edema or edema."""
    said = {(piece.label, piece.side): piece.finding for piece in pieces if piece.kind == kind}
    return sorted(
        {
            finding
            for (label, side), finding in said.items()
            if not any((label, wider) in said for wider in WIDER_SIDES.get(side, ()))
        }
    )


class PictureFolder:
    """Image id -> picture, from the image files, DICOM included, in a folder and the folders in it.

    A file belongs to an image id that is its name, with or without the ending, alone or with its place in
    the folder.

    Args:
        folder: is searched once.

    Raises:
        MissingFileError, DataError: it is not there; it has no picture.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise MissingFileError(f"{folder}: no such folder (of pictures)")
        self.files: dict[str, Path] = {}
        for file in sorted(folder.rglob("*")):
            if file.is_file() and is_image_file(file):
                place = file.relative_to(folder)
                for name in (place.as_posix(), place.with_suffix("").as_posix(), file.name, file.stem):
                    self.files.setdefault(name, file)
        if not self.files:
            raise DataError(f"{folder}: holds no picture; JPEG, PNG, TIFF, DICOM and the like can be shown")

    def __call__(self, image_id: str) -> Image.Image | None:
        """Return the picture, 8-bit grey or RGB; None where there is none.

        Raises:
            DataError: the file cannot be read.
        """
        file = self.files.get(image_id)
        return None if file is None else read_image(file)
