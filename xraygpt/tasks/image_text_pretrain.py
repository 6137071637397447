"""Training on image-report pairs, scored by the loss."""

from __future__ import annotations

from typing import Any

from torch import nn

from xraygpt.common.registry import registry
from xraygpt.datasets.batch import Batch
from xraygpt.tasks.base_task import BaseTask, EvalContext


@registry.register_task("image_text_pretrain")
class ImageTextPretrainTask(BaseTask):
    """The task of both stages of the released recipe; a split's score is its mean loss, negated."""

    def valid_step(self, model: nn.Module, samples: Batch) -> list[dict[str, Any]]:
        """Return one row for the whole batch: its size `n`, its losses, and their weight.

        The weight is what the losses are means over, as the model says (``"num_targets"``), else `n`.
        """
        outputs = model(samples)
        n = len(samples["image_id"])
        losses = {key: float(value) for key, value in outputs.items() if key.startswith("loss")}
        return [{"n": n, "weight": float(outputs.get("num_targets", n)), **losses}]

    def after_evaluation(
        self, val_result: list[dict[str, Any]], split_name: str, epoch: int | str, *, context: EvalContext
    ) -> dict[str, Any]:
        """Return the mean of each loss over the split, however it was cut into batches."""
        total = sum(row["weight"] for row in val_result)
        keys = [key for key in val_result[0] if key.startswith("loss")]
        means = {key: sum(row["weight"] * row[key] for row in val_result) / total for key in keys}
        return {"agg_metrics": -means["loss"], "n": sum(row["n"] for row in val_result), **means}
