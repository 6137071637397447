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
        scores: by method, those of reports for images and of images for reports, (n, n) each.
    """
    same_report = _equal(queries.study_ids) | _equal(queries.reports)
    kinds = {"same_report": same_report}
    if queries.labels is not None:
        kinds["same_findings"] = same_report | _equal(queries.labels)
    rows: list[Row] = [
        {"image_id": image_id, "study_id": study_id, "source": source, "candidates": len(queries.image_ids)}
        for image_id, study_id, source in zip(
            queries.image_ids, queries.study_ids, queries.sources, strict=True
        )
    ]
    for method, (to_report, _) in scores.items():
        for row, first in zip(rows, to_report.argmax(axis=1), strict=True):
            row[f"first_{method}"] = queries.image_ids[int(first)]
    for kind, relevant in kinds.items():
        for row, number in zip(rows, relevant.sum(axis=1), strict=True):
            row[kind] = {"relevant": int(number), **{method: {} for method in scores}}
        for method, directions in scores.items():
            for direction, values in zip((TO_REPORT, TO_IMAGE), directions, strict=True):
                for row, rank in zip(rows, best_ranks(values, relevant), strict=True):
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
    every = [best[direction][f"r{k}"] for direction in (TO_REPORT, TO_IMAGE) for k in RECALL_AT]
    metrics = {"agg_metrics": sum(every) / len(every), "n": len(rows), **metrics}
    if all("same_findings" in row for row in rows):
        metrics["findings_known"] = chance_recalls(
            [row["same_report"]["relevant"] for row in rows],
            candidates=[row["same_findings"]["relevant"] for row in rows],
        )
        metrics["same_findings"] = _figures(rows, "same_findings")
    return metrics


def _figures(rows: Sequence[Row], kind: str) -> dict[str, Any]:
    relevant = [row[kind]["relevant"] for row in rows]
    figures: dict[str, Any] = {"chance": chance_recalls(relevant, [row["candidates"] for row in rows])}
    for method in METHODS:
        figures[method] = {
            direction: recalls([row[kind][method][direction] for row in rows])
            for direction in (TO_REPORT, TO_IMAGE)
        }
    return figures


def _equal(keys: Sequence[Any]) -> NDArray[np.bool_]:
    """Return (n, n): which keys are equal."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    codes = np.array([numbers[key] for key in keys])
    equal: NDArray[np.bool_] = codes[:, None] == codes[None]
    return equal
