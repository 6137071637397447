"""Training on image-report pairs, scored by the reports that the model writes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from torch import nn

from xraygpt.common.dist_utils import is_main_process
from xraygpt.common.registry import registry
from xraygpt.common.run_record import write_json
from xraygpt.datasets.batch import Batch
from xraygpt.datasets.stream import SizedDataset
from xraygpt.evaluation import score_reports
from xraygpt.tasks.context import EvalContext, Splits
from xraygpt.tasks.image_text_pretrain import ImageTextPretrainTask
from xraygpt.tasks.report_results import ReportResults, is_synthetic

logger = logging.getLogger(__name__)


@registry.register_task("report_generation")
class ReportGenerationTask(ImageTextPretrainTask):
    """Generates a report for each image of a split, with ``run.generate`` and one fixed prompt.

    The reports are written to ``reports_<split>.json`` in the output folder. The score of a split is the
    micro-F1 of the findings. At the end of a run the scores of the first test split go to ``scores.json``,
    beside those of the other test splits and of the runs that ``run.page`` names, and into an HTML page if
    wanted.
    """

    results: ReportResults

    def __init__(self, cfg: Any = None, **kwargs: Any) -> None:
        super().__init__(cfg, **kwargs)
        self.rows: dict[str, list[dict[str, Any]]] = {}
        """What `valid_step` gave, by split."""

    @classmethod
    def setup_task(cls, **kwargs: Any) -> Self:
        """Return the task for a configuration (`cfg`).

        Raises:
            MissingFileError, DataError: a run that ``run.page`` names has left nothing usable.
        """
        task = cls(**kwargs)
        task.results = ReportResults(task.cfg.run_cfg.page)
        return task

    def valid_step(self, model: nn.Module, samples: Batch) -> list[dict[str, Any]]:
        """Return image id, data set, reference report and generated report of each sample."""
        generate: Any = model.generate
        reports = generate(samples, self.cfg.run_cfg.generate)
        triples = zip(samples["image_id"], samples["caption"], reports, strict=True)
        source = samples.get("source", "")
        return [{"image_id": i, "source": source, "reference": r, "generated": g} for i, r, g in triples]

    def after_evaluation(
        self, val_result: list[dict[str, Any]], split_name: str, epoch: int | str, *, context: EvalContext
    ) -> dict[str, Any]:
        """Keep and write the reports, and return their scores (`xraygpt.evaluation.score_reports`)."""
        scores = score_reports(
            references=[row["reference"] for row in val_result],
            hypotheses=[row["generated"] for row in val_result],
            seed=context.seed,
        )
        self.rows[split_name] = val_result
        if is_main_process():
            write_json(context.output_dir / f"reports_{split_name}.json", val_result)
            logger.info("%d reports written to %s", len(val_result), context.output_dir)
        return {"agg_metrics": scores["f1"], **scores}

    def after_run(
        self,
        metrics: dict[str, dict[str, Any]],
        datasets: dict[str, Splits],
        *,
        output_dir: Path,
        elapsed: Callable[[], float],
    ) -> dict[str, dict[str, Any]]:
        """Write ``scores.json`` and the page about the first test split (`ReportResults.write`)."""
        if not metrics:
            return metrics
        split, *others = metrics
        complete = self.results.write(
            _scores(metrics[split]),
            self.rows[split],
            datasets,
            split=split,
            output_dir=output_dir,
            elapsed=elapsed,
            config=self.cfg.to_dict(),
            others={name: _scores(metrics[name]) for name in others},
        )
        return {**metrics, split: complete}

    def before_evaluation(self, model: nn.Module, dataset: SizedDataset | None = None, **kwargs: Any) -> None:
        """Warn where the scores are no more than a rough sign."""
        super().before_evaluation(model, dataset, **kwargs)
        if dataset is not None and not is_synthetic(dataset):
            logger.warning(
                "the data set %s is not synthetic: F1 reads findings from reports by rules made for the "
                "language of the synthetic radiographs, and misses or mistakes those of other reports",
                getattr(dataset, "name", "at hand"),
            )


def _scores(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics without the entry that only chooses the best checkpoint."""
    return {key: value for key, value in metrics.items() if key != "agg_metrics"}
