"""Finding the report of an image and the image of a report among all those of a split."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraygpt.common.config import Config
from xraygpt.common.dist_utils import get_world_size, is_main_process
from xraygpt.common.errors import ConfigError
from xraygpt.common.logger import progress
from xraygpt.common.registry import registry
from xraygpt.common.run_record import write_json
from xraygpt.datasets.batch import Batch, to_device
from xraygpt.evaluation.results import SCORES_FILE
from xraygpt.evaluation.retrieval import RECALL_AT, best_ranks, chance_recalls, recalls
from xraygpt.models.base_model import BaseModel, images_of
from xraygpt.models.retrieval import RetrievalModel, encode_gallery, in_full_order, rerank
from xraygpt.tasks.base_task import BaseTask, EvalContext, Splits

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
        self.k_test, self.batch_size = cfg.task_cfg.k_test, cfg.run_cfg.batch_size_eval
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
        if not isinstance(model, RetrievalModel):
            raise ConfigError(
                "run.task retrieval needs a model that compares images with reports, such as blip2; "
                f"model.arch is a {type(model).__name__}"
            )
        return model

    @torch.no_grad()
    def evaluation(
        self, model: Any, data_loader: Iterable[Batch], *, context: EvalContext
    ) -> list[dict[str, Any]]:
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
        return retrieval_rows(_queries(batches), scores)

    def after_evaluation(
        self, val_result: list[dict[str, Any]], split_name: str, epoch: int | str, *, context: EvalContext
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


def _queries(batches: list[Batch]) -> Queries:
    labelled = all("labels" in batch for batch in batches)
    return Queries(
        image_ids=[name for batch in batches for name in batch["image_id"]],
        study_ids=[name for batch in batches for name in batch.get("study_id", batch["image_id"])],
        reports=[text for batch in batches for text in batch["caption"]],
        sources=[batch.get("source", "") for batch in batches for _ in batch["image_id"]],
        labels=[tuple(row) for batch in batches for row in batch["labels"].tolist()] if labelled else None,
    )


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
    columns = (queries.image_ids, queries.study_ids, queries.sources)
    rows: list[Row] = [
        {"image_id": image_id, "study_id": study_id, "source": source, "candidates": candidates}
        for image_id, study_id, source in zip(*columns, strict=True)
    ]
    first_pair = np.unique(text_of, return_index=True)[1]
    for method, (to_report, _) in scores.items():
        for row, first in zip(rows, to_report.argmax(axis=1), strict=True):
            row[f"first_{method}"] = queries.image_ids[int(first_pair[first])]
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
    chance: dict[str, Any] = {}
    for direction in DIRECTIONS:
        relevant = [row[kind]["relevant"][direction] for row in rows]
        chance[direction] = chance_recalls(relevant, [row["candidates"][direction] for row in rows])
    return {"chance": chance} | {
        method: {
            direction: recalls([row[kind][method][direction] for row in rows]) for direction in DIRECTIONS
        }
        for method in METHODS
    }


def _equal(keys: Sequence[Hashable]) -> NDArray[np.bool_]:
    """Return (n, n): which keys are equal."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    codes = np.array([numbers[key] for key in keys])
    equal: NDArray[np.bool_] = codes[:, None] == codes[None]
    return equal
