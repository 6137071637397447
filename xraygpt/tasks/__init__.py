"""Tasks: what an epoch, a training step and an evaluation are."""

from __future__ import annotations

from typing import Any

from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import registry
from xraygpt.tasks.base_task import BaseTask, EvalContext, TrainContext
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
    """Return the task that ``run.task`` of `cfg` (a `Config`) names.

    Raises:
        ConfigError: settings do not fit the task.
    """
    task_class = registry.get_task_class(cfg.run_cfg.task, BaseTask)
    if cfg.run_cfg.best_metric is not None and not task_class.chooses_by_metric:
        raise ConfigError(
            f"run.best_metric is {cfg.run_cfg.best_metric}, and run.task {cfg.run_cfg.task} has a score of "
            "its own: leave it out, or set run.task to report_generation"
        )
    return task_class.setup_task(cfg=cfg)
