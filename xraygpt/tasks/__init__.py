"""Tasks: what an epoch, a training step and an evaluation are."""

from __future__ import annotations

from typing import Any

from xraygpt.common.registry import registry
from xraygpt.tasks.base_task import BaseTask
from xraygpt.tasks.context import EvalContext, TrainContext
from xraygpt.tasks.image_text_pretrain import ImageTextPretrainTask
from xraygpt.tasks.report_generation import ReportGenerationTask
from xraygpt.tasks.retrieval import RetrievalTask

__all__ = [
    "BaseTask",
    "EvalContext",
    "ImageTextPretrainTask",
    "ReportGenerationTask",
    "RetrievalTask",
    "TrainContext",
    "setup_task",
]


def setup_task(cfg: Any) -> BaseTask:
    """Return the task that ``run.task`` of `cfg` (a `Config`) names."""
    task: BaseTask = registry.get_task_class(cfg.run_cfg.task).setup_task(cfg=cfg)
    return task
