"""From the scores of retrieval to rows, one for each image-report pair, and from rows to metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygpt.evaluation.retrieval import RECALL_AT, best_ranks, chance_recalls, recalls

TO_REPORT = "image_to_report"
TO_IMAGE = "report_to_image"
DIRECTIONS = (TO_REPORT, TO_IMAGE)
CONTRASTIVE = "contrastive"
RERANKED = "reranked"
METHODS = (CONTRASTIVE, RERANKED)

Scores = NDArray[np.floating]
Row = dict[str, Any]


@dataclass(frozen=True)
class Queries:
    """The image-report pairs of one data set, in the order of the scores."""

    image_ids: Sequence[str]
    study_ids: Sequence[str]
    reports: Sequence[str]
    sources: Sequence[str]
    labels: Sequence[tuple[float, ...]] | None
    """Findings of each image; None from a data set without labels."""


def retrieval_rows(queries: Queries, scores: Mapping[str, tuple[Scores, Scores]]) -> list[Row]:
    """Return what became of each pair, as plain values.

    Right is any report, or image, of the same study or with the same words; where the data have labels, the
    ranks of any with the same findings are told as well.

    Args:
        scores: by method, those of reports for images (n, t) and of images for reports (t, n), for n pairs
            and their t distinct texts in the order of their first appearance.
    """
    texts = {text: number for number, text in enumerate(dict.fromkeys(queries.reports))}
    text_of = np.array([texts[text] for text in queries.reports])
    same_report = _equal(queries.study_ids) | _equal(queries.reports)
    kinds = {"same_report": same_report}
    if queries.labels is not None:
        kinds["same_findings"] = same_report | _equal(queries.labels)
    candidates = {TO_REPORT: len(texts), TO_IMAGE: len(queries.image_ids)}
    rows: list[Row] = [
        {"image_id": image_id, "study_id": study_id, "source": source, "candidates": candidates}
        for image_id, study_id, source in zip(
            queries.image_ids, queries.study_ids, queries.sources, strict=True
        )
    ]
    first_pair = np.unique(text_of, return_index=True)[1]
    for method, (to_report, _) in scores.items():
        for row, first in zip(rows, to_report.argmax(axis=1), strict=True):
            row[f"first_{method}"] = queries.image_ids[int(first_pair[first])]
    for kind, pairs in kinds.items():
        relevant = {TO_REPORT: _any_copy(pairs, text_of, len(texts)), TO_IMAGE: pairs}
        for number, row in enumerate(rows):
            counts = {direction: int(right[number].sum()) for direction, right in relevant.items()}
            row[kind] = {"relevant": counts, **{method: {} for method in scores}}
        for method, (to_report, to_image) in scores.items():
            for direction, values in ((TO_REPORT, to_report), (TO_IMAGE, to_image[text_of])):
                for row, rank in zip(rows, best_ranks(values, relevant[direction]), strict=True):
                    row[kind][method][direction] = rank
    return rows


def retrieval_metrics(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the recalls of all rows, by method and direction, beside those of random orders.

    ``agg_metrics`` is the mean of the re-ranked recalls of both directions, LAVIS' ``r_mean``. Where all rows
    tell about findings, ``findings_known`` is what a reader has who knows them exactly and nothing else (an
    image does not tell in which words it was reported), and ``same_findings`` holds all figures for the wider
    notion of right.
    """
    metrics = _figures(rows, "same_report")
    best = metrics[RERANKED]
    every = [best[direction][f"r{k}"] for direction in DIRECTIONS for k in RECALL_AT]
    metrics = {"agg_metrics": sum(every) / len(every), "n": len(rows), **metrics}
    if all("same_findings" in row for row in rows):
        metrics["findings_known"] = {
            direction: chance_recalls(
                [row["same_report"]["relevant"][direction] for row in rows],
                candidates=[row["same_findings"]["relevant"][direction] for row in rows],
            )
            for direction in DIRECTIONS
        }
        metrics["same_findings"] = _figures(rows, "same_findings")
    return metrics


def _figures(rows: Sequence[Row], kind: str) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "chance": {
            direction: chance_recalls(
                [row[kind]["relevant"][direction] for row in rows],
                [row["candidates"][direction] for row in rows],
            )
            for direction in DIRECTIONS
        }
    }
    for method in METHODS:
        figures[method] = {
            direction: recalls([row[kind][method][direction] for row in rows]) for direction in DIRECTIONS
        }
    return figures


def _any_copy(pairs: NDArray[np.bool_], text_of: NDArray[np.intp], texts: int) -> NDArray[np.bool_]:
    """Return (n, t): which texts are right for which pair, from (n, n): a text is if any pair with it is."""
    right = np.zeros((len(pairs), texts), dtype=bool)
    rows, columns = pairs.nonzero()
    right[rows, text_of[columns]] = True
    return right


def _equal(keys: Sequence[Any]) -> NDArray[np.bool_]:
    """Return (n, n): which keys are equal."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    codes = np.array([numbers[key] for key in keys])
    equal: NDArray[np.bool_] = codes[:, None] == codes[None]
    return equal
