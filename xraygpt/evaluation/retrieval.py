"""Score retrieval by ranks: how often one of the right candidates is among the first k.

Shapes: Q queries, C candidates; n image-report pairs and their t distinct texts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RECALL_AT = (1, 5, 10)
TO_REPORT = "image_to_report"
TO_IMAGE = "report_to_image"
DIRECTIONS = (TO_REPORT, TO_IMAGE)
CONTRASTIVE = "contrastive"
RERANKED = "reranked"
METHODS = (CONTRASTIVE, RERANKED)

Scores = NDArray[np.floating]
Row = dict[str, Any]


def retrieval_rows(
    scores: Mapping[str, tuple[Scores, Scores]],
    *,
    image_ids: Sequence[str],
    study_ids: Sequence[str],
    reports: Sequence[str],
    sources: Sequence[str],
    labels: Sequence[tuple[float, ...]] | None,
) -> list[Row]:
    """Return what became of each of n image-report pairs of one data set, as plain values.

    Right is any report, or image, of the same study or with the same words; where the data have labels, the
    ranks of any with the same findings are told as well.

    Args:
        scores: by method, those of reports for images (n, t) and of images for reports (t, n), the texts in
            the order of their first appearance.
        labels: findings of each image; None from a data set without labels.
    """
    texts = {text: number for number, text in enumerate(dict.fromkeys(reports))}
    text_of = np.array([texts[text] for text in reports])
    same_report = _equal(study_ids) | _equal(reports)
    kinds = {"same_report": same_report}
    if labels is not None:
        kinds["same_findings"] = same_report | _equal(labels)
    candidates = {TO_REPORT: len(texts), TO_IMAGE: len(image_ids)}
    rows: list[Row] = [
        {"image_id": image_id, "study_id": study_id, "source": source, "candidates": candidates}
        for image_id, study_id, source in zip(image_ids, study_ids, sources, strict=True)
    ]
    first_pair = np.unique(text_of, return_index=True)[1]
    for method, (to_report, _) in scores.items():
        for row, first in zip(rows, to_report.argmax(axis=1), strict=True):
            row[f"first_{method}"] = image_ids[int(first_pair[first])]
    for kind, pairs in kinds.items():
        # A text is right if any pair with it is.
        right_texts = [pairs[:, text_of == number].any(axis=1) for number in texts.values()]
        relevant = {TO_REPORT: np.stack(right_texts, axis=1), TO_IMAGE: pairs}
        for number, row in enumerate(rows):
            counts = {direction: int(right[number].sum()) for direction, right in relevant.items()}
            row[kind] = {"relevant": counts, **{method: {} for method in scores}}
        for method, (for_images, for_texts) in scores.items():
            for direction, values in ((TO_REPORT, for_images), (TO_IMAGE, for_texts[text_of])):
                for row, rank in zip(rows, best_ranks(values, relevant[direction]), strict=True):
                    row[kind][method][direction] = rank
    return rows


def _equal(keys: Sequence[Hashable]) -> NDArray[np.bool_]:
    """Return (n, n): which keys are equal."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    codes = np.array([numbers[key] for key in keys])
    equal: NDArray[np.bool_] = codes[:, None] == codes[None]
    return equal


def retrieval_metrics(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the recalls of all rows, by method and direction, beside those of random orders.

    ``agg_metrics`` is the mean of the re-ranked recalls of both directions, LAVIS' ``r_mean``. Where all rows
    tell about findings, ``findings_known`` is what a reader has who knows them exactly and nothing else (an
    image does not tell in which words it was reported), and ``same_findings`` holds all figures for the wider
    notion of right.
    """
    metrics = _figures(rows, "same_report")
    every = [metrics[RERANKED][direction][f"r{k}"] for direction in DIRECTIONS for k in RECALL_AT]
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
    figures: dict[str, Any] = {"chance": {}, **{method: {} for method in METHODS}}
    for direction in DIRECTIONS:
        relevant = [row[kind]["relevant"][direction] for row in rows]
        candidates = [row["candidates"][direction] for row in rows]
        figures["chance"][direction] = chance_recalls(relevant, candidates)
        for method in METHODS:
            figures[method][direction] = recalls([row[kind][method][direction] for row in rows])
    return figures


def best_ranks(scores: NDArray[np.floating], relevant: NDArray[np.bool_]) -> list[int]:
    """Return for each query the rank, from 1, of its best relevant candidate.

    Candidates of equal score are counted before it, so that ties do not help.

    Args:
        scores: (Q, C), the higher the better.
        relevant: (Q, C); at least one in each row.

    Raises:
        ValueError: the shapes differ, or a query has no relevant candidate.
    """
    if scores.shape != relevant.shape:
        raise ValueError(f"scores {scores.shape} and relevance {relevant.shape} must have the same shape")
    if not relevant.any(axis=1).all():
        raise ValueError("every query needs a relevant candidate")
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    return [1 + int(n) for n in (~relevant & (scores >= best)).sum(axis=1)]


def recalls(ranks: Sequence[int]) -> dict[str, float]:
    """Return ``r1``, ``r5``, ``r10`` (shares of the queries) and ``median_rank``."""
    shares = {f"r{k}": sum(rank <= k for rank in ranks) / len(ranks) for k in RECALL_AT}
    return shares | {"median_rank": float(np.median(ranks))}


def chance_recalls(relevant: Sequence[int], candidates: Sequence[int]) -> dict[str, float]:
    """Return ``r1``, ``r5``, ``r10`` that random orders have on average.

    Args:
        relevant: for each query, how many of its candidates are relevant.
        candidates: for each query, how many candidates it has.
    """

    def hit_rate(relevant: int, candidates: int, k: int) -> float:
        """Return the chance that k of the candidates, drawn at random, hold a relevant one."""
        k = min(k, candidates)
        return 1.0 - math.comb(candidates - relevant, k) / math.comb(candidates, k)

    queries = list(zip(relevant, candidates, strict=True))
    return {f"r{k}": sum(hit_rate(*query, k) for query in queries) / len(queries) for k in RECALL_AT}
