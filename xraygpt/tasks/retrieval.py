"""Finding the report of an image and the image of a report among all those of a split."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from xraygpt.common.dist_utils import get_world_size, is_main_process
from xraygpt.common.errors import ConfigError
from xraygpt.common.logger import progress
from xraygpt.common.registry import registry
from xraygpt.common.run_record import write_json
from xraygpt.datasets.batch import Batch, to_device
from xraygpt.evaluation.results import SCORES_FILE
from xraygpt.models.base_model import BaseModel, images_of
from xraygpt.models.retrieval import RetrievalModel, encode_gallery, in_full_order, rerank
from xraygpt.tasks.base_task import BaseTask
from xraygpt.tasks.context import EvalContext, Splits
from xraygpt.tasks.retrieval_results import CONTRASTIVE, RERANKED, Queries, retrieval_metrics, retrieval_rows

logger = logging.getLogger(__name__)


@registry.register_task("retrieval")
class RetrievalTask(BaseTask):
    """Ranks all reports of a split for each image and all images for each report.

    First by contrastive similarity, then the best ``run.k_test`` of each again by the matching head. Reports
    with the same words are one candidate, so that a text which many studies share takes one rank. The
    ranks are written to ``retrieval_<split>.json`` in the output folder, at the end of a run the recalls of
    all test splits to ``scores.json``. Data sets are searched one by one. Training is that of the model.
    """

    @classmethod
    def setup_task(cls, **kwargs: Any) -> Self:
        """Return the task for a configuration (`cfg`).

        Raises:
            ConfigError: the data would be divided between processes.
        """
        if get_world_size() > 1 and kwargs["cfg"].run_cfg.use_dist_eval_sampler:
            raise ConfigError(
                "run.task retrieval compares all images with all reports and needs them in one process: "
                "start it without torchrun, or set run.use_dist_eval_sampler to false, so that each process "
                "does the whole"
            )
        return cls(**kwargs)

    def build_model(self, cfg: Any) -> BaseModel:
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
        run = self.cfg.run_cfg
        batches: list[Batch] = []
        reports: dict[str, None] = {}
        with context.precision.autocast():
            gallery = encode_gallery(
                model,
                _images(data_loader, context.device, batches, reports),
                reports,
                batch_size=run.batch_size_eval,
            )
            reranked = rerank(model, gallery, run.k_test, run.batch_size_eval)
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
            content = {**first, "k_test": self.cfg.run_cfg.k_test, "seconds": round(elapsed(), 2)}
            write_json(output_dir / SCORES_FILE, content | ({"other_splits": dict(others)} if others else {}))
            logger.info("scores written to %s", output_dir / SCORES_FILE)
        return metrics


def _images(
    data_loader: Iterable[Batch], device: torch.device, batches: list[Batch], reports: dict[str, None]
) -> Iterator[Tensor]:
    """Yield the images of each batch, filling `reports`, each text once, and `batches`, without images."""
    total = len(data_loader) if isinstance(data_loader, Sized) else None
    for batch in progress(data_loader, total=total, desc="encoding"):
        rest = batch.copy()
        rest.pop("image", None)  # thousands of images need not stay in memory
        batches.append(rest)
        reports |= dict.fromkeys(batch["caption"])
        yield images_of(to_device(batch, device))


def _queries(batches: list[Batch]) -> Queries:
    labelled = all("labels" in batch for batch in batches)
    return Queries(
        image_ids=[name for batch in batches for name in batch["image_id"]],
        study_ids=[name for batch in batches for name in batch.get("study_id", batch["image_id"])],
        reports=[text for batch in batches for text in batch["caption"]],
        sources=[batch.get("source", "") for batch in batches for _ in batch["image_id"]],
        labels=[tuple(row) for batch in batches for row in batch["labels"].tolist()] if labelled else None,
    )
