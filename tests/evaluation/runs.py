"""Small runs and metrics for the tests of scoring and comparing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from xraygpt.common.errors import UnavailableMetricError
from xraygpt.evaluation.metrics.metric import Array, Metric, mean_of_values, with_counts
from xraygpt.evaluation.predictions import Prediction


def _same(references: Sequence[str], hypotheses: Sequence[str]) -> Array:
    return with_counts([r == h for r, h in zip(references, hypotheses, strict=True)])


def _length(references: Sequence[str], hypotheses: Sequence[str]) -> Array:
    return with_counts([float(len(h)) for h in hypotheses])


def _absent(references: Sequence[str], hypotheses: Sequence[str]) -> Array:
    raise UnavailableMetricError("needs Java, which is not there")


SAME = Metric("same", "same text", "share of reports equal to the reference", _same, mean_of_values)
LENGTH = Metric(
    "length",
    "length",
    "mean number of characters",
    _length,
    mean_of_values,
    higher_is_better=False,
    highest=math.inf,
)
ABSENT = Metric("absent", "absent", "nothing", _absent, mean_of_values)

TEXTS = (
    "There is a left pleural effusion.",
    "The heart is enlarged.",
    "No acute disease.",
    "There is a right pneumothorax.",
)


def prediction(
    number: int,
    reference: str,
    generated: str,
    *,
    study: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Prediction:
    image_id = f"image {number:03}"
    return Prediction(image_id, study or image_id, reference, generated, columns or {})


def run(count: int, wrong_every: int, columns: Sequence[Mapping[str, str]] = ({},)) -> list[Prediction]:
    """A run over `count` images that gives every so many the report of another."""
    return [
        prediction(
            i,
            TEXTS[i % len(TEXTS)],
            TEXTS[(i + (i % wrong_every == 0)) % len(TEXTS)],
            columns=columns[i % len(columns)],
        )
        for i in range(count)
    ]
