"""What a checkpoint holds, and putting it back."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xraygpt.common.checkpoint import load_checkpoint, load_state, save_checkpoint
from xraygpt.common.code_version import git_hash
from xraygpt.common.errors import CheckpointError
from xraygpt.models.base_model import COMPUTED_BUFFERS, BaseModel


@dataclass
class TrainProgress:
    """How far a training is."""

    global_step: int = 0
    """Batches seen by each process."""
    completed_epochs: int = 0
    """Epochs that are trained and scored."""
    best_epoch: int | None = None
    """The epoch that scored best."""
    best_metric: float | None = None
    """Its score."""
    iters_per_epoch: int = 0
    """Batches in an epoch: `run.iters_per_epoch`, or what one pass over the data makes."""
    world_size: int = 0
    """Number of training processes."""


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what training changes: trainable parameters, and buffers of modules that own such parameters.

    The second kind are running statistics (BatchNorm); tables that follow from the sizes alone belong to
    modules without trained parameters of their own and stay out. A weight with two names (tied) has both.
    """
    named = model.named_parameters(remove_duplicate=False)
    kept = {name for name, parameter in named if parameter.requires_grad}
    for prefix, module in model.named_modules():
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            kept |= {f"{prefix}.{name}".lstrip(".") for name, _ in module.named_buffers(recurse=False)}
    return {name: value for name, value in model.state_dict().items() if name in kept}


def load_trainable_state(model: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Put back what `trainable_state` gave.

    Raises:
        CheckpointError: keys are missing, unknown or of another size.
    """
    expected = trainable_state(model)
    if missing := sorted(set(expected) - set(state)):
        shown = ", ".join(missing[:12]) + (", ..." if len(missing) > 12 else "")
        raise CheckpointError(f"{where}: {len(missing)} trained weights of the model are missing: {shown}")
    load_state(model, state, where=where, ignore=COMPUTED_BUFFERS, expect_missing=[".*"])


def save_training(
    path: Path,
    *,
    model: BaseModel,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    config: dict[str, Any],
    epoch: int,
    progress: TrainProgress,
    job_id: str,
) -> None:
    """Write a checkpoint in the reference's layout, with what exact resume needs beside it.

    No state of a random generator is in it: all random numbers are functions of `run.seed` and the step.
    """
    payload = {
        "model": trainable_state(model),
        "optimizer": optimizer.state_dict(),
        "config": config,
        "scaler": scaler.state_dict() if scaler is not None else None,
        "epoch": epoch,
        "global_step": progress.global_step,
        "progress": asdict(progress),
        "manifest": {**make_manifest(model), "job_id": job_id},
    }
    save_checkpoint(path, payload)


@dataclass
class SavedTraining:
    """A checkpoint that a training can go on from."""

    path: Path
    payload: dict[str, Any]
    """All that `save_training` wrote."""
    progress: TrainProgress
    """How far it was."""

    @property
    def run(self) -> dict[str, Any]:
        """The section ``run`` of the configuration that it was made with."""
        section: dict[str, Any] = (self.payload.get("config") or {}).get("run") or {}
        return section


def read_training(path: Path) -> SavedTraining:
    """Read a checkpoint to go on from.

    Raises:
        MissingFileError, CheckpointError: it is absent, damaged, or holds weights only.
    """
    payload = load_checkpoint(path)
    if absent := [key for key in ("model", "optimizer", "progress") if key not in payload]:
        raise CheckpointError(
            f"{path}: cannot go on from it, it holds no {', '.join(absent)}. To start from its weights, name "
            "it in model.ckpt instead."
        )
    return SavedTraining(path, payload, TrainProgress(**payload["progress"]))


def restore_training(
    saved: SavedTraining,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
) -> None:
    """Put a checkpoint's state back.

    Raises:
        CheckpointError: it is of another model or optimizer.
    """
    path, payload = saved.path, saved.payload
    if isinstance(model, BaseModel):
        model.check_origin(payload["model"], payload.get("manifest") or {}, where=str(path))
    load_trainable_state(model, payload["model"], where=str(path))
    try:
        optimizer.load_state_dict(payload["optimizer"])
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: the optimizer's state does not fit: {error}") from error
    if scaler is not None and payload.get("scaler"):
        scaler.load_state_dict(payload["scaler"])


def make_manifest(model: BaseModel) -> dict[str, Any]:
    """Return facts about the model and the code that tell later what a checkpoint is; plain values only."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "torch": str(torch.__version__),
        "transformers": importlib.metadata.version("transformers"),
        "git": git_hash(),
        "prompts": list(model.prompt_list),
        **model.manifest(),
    }
