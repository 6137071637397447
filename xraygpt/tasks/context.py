"""Where and how the loops of a task run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from xraygpt.common.logger import MetricsWriter
from xraygpt.common.precision import Precision
from xraygpt.datasets.stream import SizedDataset

Splits = dict[str, SizedDataset]


@dataclass
class EvalContext:
    """Where and how an evaluation runs."""

    device: torch.device
    precision: Precision
    seed: int
    output_dir: Path
    split: str = ""
    """Name of the split as the configuration has it."""
    event: Literal["valid", "test"] = "valid"
    """Whether the evaluation is the validation after an epoch or the one that the run is made for."""
    gather: bool = True
    """The data is divided between the processes, so that the results have to be brought together."""


@dataclass
class TrainContext:
    """Where and how a training loop runs, beyond what its arguments say."""

    device: torch.device
    precision: Precision
    seed: int
    grad_clip: float | None = None
    """Largest norm of the gradient of all parameters together."""
    writer: MetricsWriter | None = None
    """Gets a line for each step."""
    on_update: Callable[[int, int], None] = field(default=lambda before, after: None)
    """Called after each optimizer step with the numbers of batches seen before and after its batches; the
    place to save a checkpoint."""
