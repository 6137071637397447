"""Tasks: what an epoch, a training step and an evaluation are."""

from __future__ import annotations

from xraygpt.common.config import Config
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


def setup_task(cfg: Config) -> BaseTask:
    """Return the task that ``run.task`` of `cfg` names.

    Raises:
        ConfigError: settings do not fit the task.
    """
    return registry.get_task_class(cfg.run_cfg.task, BaseTask).setup_task(cfg=cfg)
