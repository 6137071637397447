"""A model that trains in milliseconds and a data set on disk, for tests of what goes on around them.

As a script it is train.py with the toy model registered: ``python tests/toy.py --cfg-path ...``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from xraygpt.common.dist_utils import get_rank
from xraygpt.common.registry import registry
from xraygpt.datasets.batch import images_of
from xraygpt.models.base_model import BaseModel, FrozenPart
from xraygpt.models.generation import GeneratedReport, GenerationConfig

SIDE = 8
DIE_AT_BATCH = "TOY_DIES_AT_BATCH"
"""Environment variable: kill the process at this batch of reports."""
DIE_BY = "TOY_DIES_BY"
"""Environment variable: name of the signal that does it."""


@dataclass
class ToyConfig:
    """Settings of the toy model."""

    dropout: float = 0.0
    """Probability with which a hidden value is dropped in training."""
    nan_for: str = ""
    """Image id whose loss is NaN."""
    die_at: int = 0
    """Kill the process at this training step; 0 for never."""
    die_by: str = "SIGKILL"
    """Name of the signal that does it; "worker" kills a process that loads data, "bug" raises an error."""
    die_rank: int = 0
    """The process that it happens to."""


@registry.register_model("toy")
class ToyModel(BaseModel):
    """Predicts the number in an image's report ("value 12") from the image; one layer is frozen."""

    config_class = ToyConfig

    def __init__(
        self,
        dropout: float = 0.0,
        nan_for: str = "",
        die_at: int = 0,
        die_by: str = "SIGKILL",
        die_rank: int = 0,
    ) -> None:
        super().__init__()
        self.frozen = nn.Linear(3 * SIDE * SIDE, 16).requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(16, 1)
        self.nan_for = nan_for
        self.die_at = die_at if die_rank == get_rank() else 0
        self.die_by = die_by
        self.steps = 0
        self.batches = 0
        self.prompt_list = ["one", "two", "three"]
        self.exported: Path | None = None

    @classmethod
    def from_config(cls, cfg: Any, device: str | torch.device = "cpu") -> Self:
        return cls(**vars(cfg))

    def encode(self, image: Tensor) -> Tensor:
        if image.dim() == 3:
            return image
        return torch.tanh(self.frozen(image.flatten(1))).unsqueeze(1)  # (B, 1, 16)

    def frozen_part(self) -> FrozenPart:
        return FrozenPart("toy encoder", self.encode, (1, 16), {"frozen": self.frozen}, {})

    def predict(self, image: Tensor) -> Tensor:
        return self.head(self.dropout(self.encode(image).flatten(1))).squeeze(1)  # (B,)

    def forward(self, samples: Any) -> dict[str, Tensor]:
        self.steps += self.training
        if self.die_at and self.steps == self.die_at:
            self._die()
        # Reports count by their value, as reports count by their length in a language model.
        target = torch.tensor([float(text.split()[1]) for text in samples["caption"]])
        weights = target + 1
        squared = weights * (self.predict(images_of(samples)) - target / 10) ** 2
        loss = squared.sum() / weights.sum()
        if self.nan_for in samples["image_id"]:
            loss = loss * float("nan")
        return {"loss": loss, "loss_half": loss / 2, "num_targets": weights.sum()}

    def _die(self) -> None:
        if self.die_by == "bug":
            raise ZeroDivisionError("a fault in the program")
        if self.die_by == "worker":
            worker = multiprocessing.active_children()[0]
            worker.kill()
            worker.join()
        else:
            os.kill(os.getpid(), signal.Signals[self.die_by])

    def generate_detailed(self, samples: Any, generation: GenerationConfig) -> list[GeneratedReport]:
        self.batches += 1
        if str(self.batches) == os.environ.get(DIE_AT_BATCH):
            os.kill(os.getpid(), signal.Signals[os.environ.get(DIE_BY, "SIGKILL")])
        return [
            GeneratedReport(f"value {round(10 * value)}", 2, "end_token", -abs(value))
            for value in self.predict(samples["image"]).tolist()
        ]

    def export(self, folder: Path) -> None:
        self.exported = folder


def write_dataset(folder: Path, train: int = 13, val: int = 5, suffix: str = ".png") -> Path:
    """Write images whose brightness follows the number in their report; return the storage folder."""
    (folder / "image").mkdir(parents=True)
    rows = []
    for index in range(train + val):
        value = (index * 7) % 10
        noise = np.random.default_rng(index).integers(0, 20, (12, 10, 3))
        Image.fromarray((noise + 20 * value).astype(np.uint8)).save(folder / "image" / f"x{index}{suffix}")
        row = {"image_id": f"x{index}", "caption": f"value {value}"}
        rows.append(row if index < train else {**row, "split": "validate"})
    (folder / "filter_cap.json").write_text(json.dumps({"annotations": rows}))
    return folder


def write_config(
    path: Path, storage: Path, output: Path, model: dict[str, Any] | None = None, **run: Any
) -> Path:
    """Write a training configuration of the toy model; `run` adds to its section ``run``."""
    # METEOR alone would take seconds to start.
    metrics = {"metrics": ["rule_f1_micro_14", "rouge_l"]} if run.get("task") == "report_generation" else {}
    config = {
        "model": {"arch": "toy", **(model or {})},
        "datasets": {
            "openi": {
                "build_info": {"storage": str(storage)},
                "vis_processor": {"train": {"name": "blip2_image_train", "image_size": SIDE}},
            }
        },
        "run": {
            "task": "image_text_pretrain",
            "output_dir": str(output),
            "device": "cpu",
            "init_lr": 0.01,
            "max_epoch": 2,
            "iters_per_epoch": 6,
            "batch_size_train": 4,
            "batch_size_eval": 2,
            "log_freq": 3,
            **metrics,
            **run,
        },
    }
    path.write_text(yaml.safe_dump(config))
    return path


def metrics_of(output: Path, event: str = "train") -> list[dict[str, Any]]:
    """Return the lines of one kind of metrics.jsonl, without times."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines if line["event"] == event]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import train

    sys.exit(train.main())
