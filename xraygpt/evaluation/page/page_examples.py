"""The examples on the page about an evaluation: which are shown, and each with its findings marked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.common.html_page import picture_url
from xraygpt.evaluation.metrics.metric import Metric
from xraygpt.evaluation.page.page_marks import Piece, Span, marked_pieces, names_of
from xraygpt.evaluation.page.page_scores import ScoreRow
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

Why = Literal["worst", "random"]
Marker = Callable[[str, str], tuple[list[Span], list[Span]]]
Pictures = Callable[[str], Image.Image | None]
"""Image id -> image; None where there is none to show. Raises DataError where it cannot be read."""


@dataclass(frozen=True, slots=True)
class Card:
    """One image with its two reports."""

    order: int
    """Place among the examples as they were chosen."""
    image_id: str
    study_id: str
    chosen: Why
    picture: str | None
    """As a ``data:`` URL."""
    unreadable: bool
    """There is a picture, but it cannot be read."""
    columns: Mapping[str, str]
    reference: list[Piece]
    generated: list[Piece]
    agreed: list[str]
    missed: list[str]
    invented: list[str]
    figures: list[ScoreRow]
    """Scores of this report alone."""


def choose_examples(
    predictions: Sequence[Prediction], worst: Sequence[str], count: int
) -> list[tuple[Prediction, Why]]:
    """Choose the reports to show: half the worst, the rest by a hash of the image's name alone.

    Args:
        worst: image ids, the worst first.

    Returns:
        At most one report of a study, `count` in all where there are as many studies.
    """
    by_image = {prediction.image_id: prediction for prediction in predictions}
    taken: set[str] = set()
    bad = _of_new_studies((by_image[name] for name in worst), taken, count // 2)
    by_hash = sorted(predictions, key=lambda prediction: name_hash(prediction.image_id))
    others = _of_new_studies(by_hash, taken, count - len(bad))
    return [
        *((prediction, "worst") for prediction in bad),
        *((prediction, "random") for prediction in others),
    ]


def example_cards(
    chosen: Sequence[tuple[Prediction, Why]],
    metrics: Sequence[Metric],
    pictures: Pictures | None,
    mark: Marker,
) -> list[Card]:
    """Make a card of each example.

    Args:
        chosen: of `choose_examples`.
        metrics: whose scores of the report alone are told.
        mark: finds the words of findings in a reference and a generated report.
    """
    told = _varying_columns([prediction for prediction, _ in chosen])
    cards = []
    for order, (prediction, why) in enumerate(chosen):
        picture, unreadable = _picture_of(prediction.image_id, pictures)
        reference, generated = mark(prediction.reference, prediction.generated)
        card = Card(
            order=order,
            image_id=prediction.image_id,
            study_id=prediction.study_id,
            chosen=why,
            picture=picture,
            unreadable=unreadable,
            columns={name: value for name in told if (value := prediction.columns.get(name, ""))},
            reference=marked_pieces(prediction.reference, reference),
            generated=marked_pieces(prediction.generated, generated),
            agreed=names_of(generated, "agree"),
            missed=names_of(reference, "missed") or ([] if prediction.generated.strip() else [ANY_TEXT]),
            invented=names_of(generated, "invented"),
            figures=[_figure(metric, prediction) for metric in metrics],
        )
        cards.append(card)
    return cards


def _picture_of(image_id: str, pictures: Pictures | None) -> tuple[str | None, bool]:
    """Return the picture's URL, and whether there is a picture that cannot be read."""
    try:
        picture = pictures(image_id) if pictures is not None else None
    except DataError:
        return None, True
    return picture_url(picture, MAX_SIDE) if picture is not None else None, False


def _of_new_studies(predictions: Iterable[Prediction], taken: set[str], count: int) -> list[Prediction]:
    """Return the first `count` predictions of studies that are not `taken`, and take these."""
    found: list[Prediction] = []
    for prediction in predictions:
        if len(found) < count and prediction.study_id not in taken:
            taken.add(prediction.study_id)
            found.append(prediction)
    return found


def _varying_columns(predictions: Sequence[Prediction]) -> list[str]:
    """Return the first columns that are short and not the same for all."""
    values: dict[str, set[str]] = {}
    for prediction in predictions:
        for name, value in prediction.columns.items():
            values.setdefault(name, set()).add(value)
    varying = [name for name, own in values.items() if len(own) > 1 and max(map(len, own)) <= LONGEST_VALUE]
    return varying[:MAX_COLUMNS]


def _figure(metric: Metric, prediction: Prediction) -> ScoreRow:
    value = metric([prediction.reference], [prediction.generated])
    return ScoreRow(metric.name, metric.title, value, math.nan, math.nan, metric.highest)
