"""What a checkpoint holds, and putting it back."""

from __future__ import annotations

import importlib.metadata
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xraygpt.common.checkpoint import load_checkpoint, load_state, save_checkpoint
from xraygpt.common.errors import CheckpointError
from xraygpt.common.paths import package_root
from xraygpt.models.base_model import COMPUTED_BUFFERS


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
    model: nn.Module,
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


def load_training(
    path: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
) -> tuple[TrainProgress, dict[str, Any]]:
    """Put a checkpoint's state back; return how far it was and the configuration it was made with.

    Raises:
        MissingFileError, CheckpointError: it is absent, damaged, or of another model or optimizer.
    """
    payload = load_checkpoint(path)
    if absent := [key for key in ("model", "optimizer", "progress") if key not in payload]:
        raise CheckpointError(
            f"{path}: cannot go on from it, it holds no {', '.join(absent)}. To start from its weights, name "
            "it in model.ckpt instead."
        )
    load_trainable_state(model, payload["model"], where=str(path))
    try:
        optimizer.load_state_dict(payload["optimizer"])
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: the optimizer's state does not fit: {error}") from error
    if scaler is not None and payload.get("scaler"):
        scaler.load_state_dict(payload["scaler"])
    return TrainProgress(**payload["progress"]), payload.get("config") or {}


def make_manifest(model: nn.Module) -> dict[str, Any]:
    """Return facts about the model and the code that tell later what a checkpoint is; plain values only."""
    own = getattr(model, "manifest", None)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "torch": str(torch.__version__),
        "transformers": importlib.metadata.version("transformers"),
        "git": _git_hash(),
        "prompts": list(getattr(model, "prompt_list", [])),
        **(own() if own is not None else {}),
    }


def _git_hash() -> str | None:
    """Return the commit that the code comes from; None when it is no checkout."""
    root = package_root().parent
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
