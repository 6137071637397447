"""Training on image-report pairs, scored by the reports that the model writes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from torch import nn

from xraygpt.common.dist_utils import is_main_process
from xraygpt.common.registry import registry
from xraygpt.datasets.batch import Batch
from xraygpt.evaluation import score_reports
from xraygpt.tasks.context import EvalContext
from xraygpt.tasks.image_text_pretrain import ImageTextPretrainTask

logger = logging.getLogger(__name__)


@registry.register_task("report_generation")
class ReportGenerationTask(ImageTextPretrainTask):
    """Generates a report for each image of a split, with ``run.generate`` and one fixed prompt.

    The reports are written to ``reports_<split>.json`` in the output folder, their scores to
    ``scores_<split>.json``. The score of a split is the
    micro-F1 of the findings.
    """

    def valid_step(self, model: nn.Module, samples: Batch) -> list[dict[str, Any]]:
        """Return image id, reference report and generated report of each sample."""
        generate: Any = model.generate
        reports = generate(samples, self.cfg.run_cfg.generate)
        triples = zip(samples["image_id"], samples["caption"], reports, strict=True)
        return [{"image_id": i, "reference": r, "generated": g} for i, r, g in triples]

    def after_evaluation(
        self, val_result: list[dict[str, Any]], split_name: str, epoch: int | str, *, context: EvalContext
    ) -> dict[str, Any]:
        """Write the reports and return their scores (`xraygpt.evaluation.score_reports`)."""
        scores = score_reports(
            references=[row["reference"] for row in val_result],
            hypotheses=[row["generated"] for row in val_result],
            seed=context.seed,
        )
        if is_main_process():
            _write(context.output_dir / f"reports_{split_name}.json", val_result)
            _write(context.output_dir / f"scores_{split_name}.json", scores)
            logger.info("%d reports and their scores written to %s", len(val_result), context.output_dir)
        return {"agg_metrics": scores["f1"], **scores}


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
