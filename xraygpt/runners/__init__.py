"""Runners: one process of a training or an evaluation."""

from __future__ import annotations

from xraygpt.common.run_config import RunConfig
from xraygpt.runners.runner_base import RunnerBase

__all__ = ["RunConfig", "RunnerBase"]
