"""Finding the report of an image and the image of a report among all those of a split: by contrast first, and
by matching of the best. The score is how often one of the right candidates is among the first k.

Shapes: I images, T texts, Q features of size E for each image, N image tokens of width V, L text tokens; of
the ranks: Q queries, C candidates, n image-report pairs and their t distinct texts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchEncoding

from xraygpt.common.config import Config
from xraygpt.common.dist_utils import get_world_size, is_main_process
from xraygpt.common.errors import ConfigError
from xraygpt.common.logger import progress
from xraygpt.common.registry import registry
from xraygpt.common.run_record import write_json
from xraygpt.datasets.batch import Batch, images_of, to_device
from xraygpt.evaluation.results import SCORES_FILE
from xraygpt.models.base_model import BaseModel
from xraygpt.models.blip_pretrain import PairTraining, best_cosines
from xraygpt.tasks.base_task import BaseTask, EvalContext, Splits

NOT_RANKED = -100.0
"""Score of pairs outside the first `k_test` by cosine similarity."""
RECALL_AT = (1, 5, 10)
TO_REPORT = "image_to_report"
TO_IMAGE = "report_to_image"
DIRECTIONS = (TO_REPORT, TO_IMAGE)
CONTRASTIVE = "contrastive"
RERANKED = "reranked"
METHODS = (CONTRASTIVE, RERANKED)

Scores = NDArray[np.floating]
Row = dict[str, Any]

logger = logging.getLogger(__name__)


@dataclass
class RetrievalConfig:
    """The keys of the section ``run`` that only the task "retrieval" reads."""

    k_test: int = 128
    """How many of the best reports for an image, and images for a report, the matching head ranks again."""

    def __post_init__(self) -> None:
        if self.k_test < 1:
            raise ValueError(f"k_test must be at least 1, got {self.k_test}")


@registry.register_task("retrieval")
class RetrievalTask(BaseTask):
    """Ranks all reports of a split for each image and all images for each report.

    First by contrastive similarity, then the best ``run.k_test`` of each again by the matching head. Reports
    with the same words are one candidate, so that a text which many studies share takes one rank. The
    ranks are written to ``retrieval_<split>.json`` in the output folder, at the end of a run the recalls of
    all test splits to ``scores.json``. Data sets are searched one by one. Training is that of the model.

    Raises:
        ConfigError: the data would be divided between processes.
    """

    config_class = RetrievalConfig

    def __init__(self, cfg: Config, **kwargs: Any) -> None:
        super().__init__(cfg, **kwargs)
        assert isinstance(cfg.task_cfg, RetrievalConfig)
        size = cfg.run_cfg.batch_size_eval
        assert size != "auto"  # super().__init__ refuses it
        self.k_test, self.batch_size = cfg.task_cfg.k_test, size
        if get_world_size() > 1 and cfg.run_cfg.use_dist_eval_sampler:
            raise ConfigError(
                "run.task retrieval compares all images with all reports and needs them in one process: "
                "start it without torchrun, or set run.use_dist_eval_sampler to false, so that each process "
                "does the whole"
            )

    def build_model(self, cfg: Config) -> BaseModel:
        """Return the model that the configuration describes.

        Raises:
            ConfigError: it cannot compare images with reports.
        """
        model = super().build_model(cfg)
        if not isinstance(model, PairTraining):
            raise ConfigError(
                "run.task retrieval needs a model that compares images with reports, such as blip2; "
                f"model.arch is a {type(model).__name__}"
            )
        return model

    @torch.no_grad()
    def evaluation(self, model: Any, data_loader: Iterable[Batch], *, context: EvalContext) -> list[Row]:
        """Return a row for each image-report pair (`retrieval_rows`)."""
        model.eval()
        batches: list[Batch] = []  # without their images: thousands need not stay in memory
        reports: dict[str, None] = {}  # each text once

        def images() -> Iterator[Tensor]:
            for batch in progress(data_loader, desc="encoding"):
                batches.append(cast(Batch, {key: value for key, value in batch.items() if key != "image"}))
                reports.update(dict.fromkeys(batch["caption"]))
                yield images_of(to_device(batch, context.device))

        with context.precision.autocast():
            gallery = encode_gallery(model, images(), reports, batch_size=self.batch_size)
            reranked = rerank(model, gallery, self.k_test, self.batch_size)
        contrastive = gallery.similarity, gallery.similarity.T
        orders = tuple(in_full_order(*pair) for pair in zip(reranked, contrastive, strict=True))
        scores = {
            method: (to_report.float().cpu().numpy(), to_image.float().cpu().numpy())
            for method, (to_report, to_image) in {CONTRASTIVE: contrastive, RERANKED: orders}.items()
        }
        labels = None
        if all("labels" in batch for batch in batches):
            labels = [tuple(row) for batch in batches for row in batch["labels"].tolist()]
        return retrieval_rows(
            scores,
            image_ids=[name for batch in batches for name in batch["image_id"]],
            study_ids=[name for batch in batches for name in batch.get("study_id", batch["image_id"])],
            reports=[text for batch in batches for text in batch["caption"]],
            sources=[batch.get("source", "") for batch in batches for _ in batch["image_id"]],
            labels=labels,
        )

    def after_evaluation(
        self, val_result: list[Row], split_name: str, epoch: int | str, *, context: EvalContext
    ) -> dict[str, Any]:
        """Write the rows and return their recalls (`retrieval_metrics`)."""
        if is_main_process():
            write_json(context.output_dir / f"retrieval_{split_name}.json", val_result)
            logger.info("ranks of %d pairs written to %s", len(val_result), context.output_dir)
        return retrieval_metrics(val_result)

    def after_run(
        self,
        metrics: dict[str, dict[str, Any]],
        datasets: dict[str, Splits],
        *,
        output_dir: Path,
        elapsed: Callable[[], float],
    ) -> dict[str, dict[str, Any]]:
        """Write ``scores.json``: the first test split's metrics, the others' under ``other_splits``."""
        if metrics:
            (_, first), *others = metrics.items()
            content = {**first, "k_test": self.k_test, "seconds": round(elapsed(), 2)}
            write_json(output_dir / SCORES_FILE, content | ({"other_splits": dict(others)} if others else {}))
            logger.info("scores written to %s", output_dir / SCORES_FILE)
        return metrics


@dataclass
class Gallery:
    """Images and texts to be compared, each with each."""

    similarity: Tensor
    """(I, T): cosine of the image's feature that is most similar to the text."""
    image_tokens: Tensor
    """(I, N, V), in main memory."""
    text_ids: Tensor
    """(T, L)"""
    text_mask: Tensor
    """(T, L)"""


@torch.no_grad()
def encode_gallery(
    model: PairTraining,
    images: Iterable[Tensor],
    texts: Collection[str],
    *,
    max_txt_len: int | None = None,
    batch_size: int = 64,
) -> Gallery:
    """Encode batches (B, 3, height, width) of images, and texts cut at `max_txt_len` (default: the model's).

    `texts` is read once the images are through, so that one loop over the data can fill it.
    """
    encoded = [(feats, tokens.cpu()) for feats, tokens in map(model.encode_images, images)]
    image_feats = torch.cat([feats for feats, _ in encoded])  # (I, Q, E)
    tokens = model.tokenize(list(texts), max_length=max_txt_len).to(image_feats.device)
    ids, mask = tokens.input_ids, tokens.attention_mask
    similarities = []
    # One text batch at a time: (I, T, Q) does not fit into memory for some ten thousand reports.
    for some_ids, some_mask in zip(ids.split(batch_size), mask.split(batch_size), strict=True):
        some = BatchEncoding({"input_ids": some_ids, "attention_mask": some_mask})
        similarities.append(best_cosines(image_feats, model.encode_texts(some)))
    return Gallery(torch.cat(similarities, dim=1), torch.cat([tokens for _, tokens in encoded]), ids, mask)


@torch.no_grad()
def rerank(model: PairTraining, gallery: Gallery, k_test: int, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """Scores (I, T) of texts for images and (T, I) of images for texts.

    The `k_test` best partners of each by cosine similarity get that similarity plus the matching logit,
    all others `NOT_RANKED`.
    """

    def scores(similarity: Tensor, *, rows_are_images: bool) -> Tensor:
        best, columns = similarity.topk(min(k_test, similarity.shape[1]), dim=1)
        rows = torch.arange(len(similarity), device=similarity.device)[:, None].expand_as(columns)
        images, texts = (rows, columns) if rows_are_images else (columns, rows)
        batches = zip(images.flatten().split(batch_size), texts.flatten().split(batch_size), strict=True)
        what = "re-ranking reports" if rows_are_images else "re-ranking images"
        logits = [
            model.compute_itm(
                gallery.image_tokens[i.cpu()].to(similarity.device), gallery.text_ids[t], gallery.text_mask[t]
            )
            for i, t in progress(list(batches), desc=what)
        ]
        matching = torch.cat(logits).view_as(best).to(best.dtype)
        ranked = torch.full_like(similarity, NOT_RANKED, memory_format=torch.contiguous_format)
        return ranked.scatter(1, columns, best + matching)

    return (
        scores(gallery.similarity, rows_are_images=True),
        scores(gallery.similarity.T, rows_are_images=False),
    )


def in_full_order(scores: Tensor, similarity: Tensor) -> Tensor:
    """Scores of `rerank` with the pairs outside the first `k_test` behind the others, by similarity."""
    return torch.where(scores == NOT_RANKED, NOT_RANKED + similarity, scores)


def compute_sim_matrix(
    model: PairTraining,
    data_loader: Iterable[Mapping[str, Any]],
    *,
    texts: Sequence[str],
    k_test: int,
    max_txt_len: int | None = None,
    batch_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """`encode_gallery` and `rerank` under the reference's name: scores (I, T) and (T, I)."""
    images = (batch["image"].to(model.device) for batch in data_loader)
    gallery = encode_gallery(model, images, texts, max_txt_len=max_txt_len, batch_size=batch_size)
    return rerank(model, gallery, k_test, batch_size)


# Ranks and recalls


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
