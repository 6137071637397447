"""What a checkpoint holds, whether a training may resume from it, and putting it back."""

from __future__ import annotations

import importlib.metadata
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from xraygpt.common.checkpoint import is_plain, load_checkpoint, load_state, save_checkpoint
from xraygpt.common.dist_utils import is_main_process, sharded_like, whole_state
from xraygpt.common.errors import CheckpointError, ConfigError
from xraygpt.common.run_record import git_hash
from xraygpt.common.typed import Problem, collect
from xraygpt.models.base_model import BaseModel
from xraygpt.models.key_translation import COMPUTED

FIXED = ("optimizer", "weight_decay", "beta2", "lr_layer_decay", "learning_rates", "best_metric")
"""Keys of the section ``run`` that are part of the state which is put back as it was: the optimizer's, and
the best score so far."""
WATCHED = (
    *("seed", "precision", "amp", "train_splits", "batch_size_train", "group_by_length"),
    *("accum_grad_iters", "grad_clip"),
    *("max_epoch", "lr_sched", "init_lr", "min_lr", "warmup_lr", "warmup_steps", "lr_decay_rate"),
    "feature_cache",
)
"""Keys that take effect at once, so that the training is no longer the one that was begun."""

SHARDS = ".shards"
"""Suffix of the folder that holds the state of a sharded training."""

logger = logging.getLogger(__name__)


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

    def __post_init__(self) -> None:
        for name in ("global_step", "completed_epochs", "iters_per_epoch", "world_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.best_metric is not None and not math.isfinite(self.best_metric):
            raise ValueError(f"best_metric must be a finite number, got {self.best_metric}")
        epochs = self.completed_epochs, self.completed_epochs + 1
        if not epochs[0] * self.iters_per_epoch <= self.global_step <= epochs[1] * self.iters_per_epoch:
            raise ValueError(
                f"global_step {self.global_step} does not follow {epochs[0]} epochs of {self.iters_per_epoch}"
            )


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what training changes: trainable parameters, and buffers of modules that own such parameters.

    The second kind are running statistics (BatchNorm). A weight with two names (tied) has both.
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
    shards = {
        name: sharded_like(expected[name], value)
        for name, value in state.items()
        if name in expected and expected[name].shape == value.shape
    }
    load_state(model, state | shards, where=where, ignore=[COMPUTED], expect_missing=[".*"])


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
    shards: str | None = None,
) -> None:
    """Write a checkpoint in the reference's layout, with what exact resume needs beside it.

    No state of a random generator is in it: all random numbers are functions of `run.seed` and the step.

    Args:
        model: if it is sharded, all processes have to call this, and the optimizer's state is left out.
        shards: name of the folder that it is in then.
    """
    sharded = isinstance(model, FSDPModule)
    payload: dict[str, Any] = {
        "model": whole_state(trainable_state(model)) if sharded else trainable_state(model),
        "optimizer": {} if sharded else optimizer.state_dict(),
        "config": config,
        "scaler": scaler.state_dict() if scaler is not None else None,
        "epoch": epoch,
        "global_step": progress.global_step,
        "progress": asdict(progress),
        "manifest": {**make_manifest(model), "job_id": job_id},
    }
    if sharded:
        payload["shards"] = shards
    if is_main_process():
        save_checkpoint(path, payload)


@dataclass
class SavedTraining:
    """A checkpoint that a training can resume from: what `save_training` writes."""

    model: dict[str, Any]
    optimizer: dict[str, Any]
    config: dict[str, Any]
    scaler: dict[str, int | float] | None
    epoch: int
    global_step: int
    progress: TrainProgress
    manifest: dict[str, Any]
    path: Path
    shards: str | None = None
    """Name of the folder beside it with the state of a sharded training, which `optimizer` does not hold."""

    def __post_init__(self) -> None:
        if self.shards is not None and not self.shards.endswith(SHARDS):
            raise ValueError(f"shards must be the name of a folder {SHARDS}, got {self.shards!r}")
        if self.global_step != self.progress.global_step:
            raise ValueError(f"global_step {self.global_step} is not that of progress")
        if not isinstance(self.config.get("run"), dict):
            raise ValueError("config must have a section run")
        for name in ("config", "manifest"):
            if not is_plain(getattr(self, name)):
                raise ValueError(f"{name} must hold nothing but texts, numbers, lists and mappings")


def read_training(path: Path, mmap: bool = False) -> SavedTraining:
    """Read a checkpoint to resume from.

    Args:
        mmap: read no tensor; for `SavedTraining.progress` alone.

    Raises:
        MissingFileError, CheckpointError: it is absent, damaged, or holds weights only.
    """
    payload = load_checkpoint(path, mmap)
    if absent := [key for key in ("model", "optimizer", "progress") if key not in payload]:
        raise CheckpointError(
            f"{path}: cannot resume from it, it holds no {', '.join(absent)}. To start from its weights, "
            "name it in model.ckpt instead."
        )
    problems: list[Problem] = []
    known = {field.name: payload[field.name] for field in fields(SavedTraining) if field.name in payload}
    saved = collect(SavedTraining, {**known, "path": path}, "checkpoint", problems)
    if saved is None:
        raise _broken(path, [str(problem).removeprefix("checkpoint.") for problem in problems])
    return saved


def restore_training(
    saved: SavedTraining,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
) -> None:
    """Put a checkpoint's state back.

    Raises:
        CheckpointError: it is of another model or optimizer, or something in it is damaged.
    """
    # Keys and sizes of weights are compared by `load_trainable_state`, which lists them.
    weights = {name: value for name, value in trainable_state(model).items() if name in saved.model}
    problems = [
        *_differences("model", saved.model, weights, sizes=False),
        *_differences("optimizer", saved.optimizer, _state_after_a_step(optimizer, saved.optimizer)),
    ]
    if isinstance(model, BaseModel):
        problems += [
            f"manifest.{key} is {saved.manifest[key]!r}, expected something like {value!r}"
            for key, value in make_manifest(model).items()
            if key in saved.manifest and key != "git" and type(saved.manifest[key]) is not type(value)
        ]
    if scaler is not None and saved.scaler:
        problems += _differences("scaler", saved.scaler, scaler.state_dict())
    elif not (saved.scaler or all(part["state"] for part in _parts(saved.optimizer))):
        problems.append("optimizer.state is empty")
    if problems:
        raise _broken(saved.path, problems)
    if isinstance(model, BaseModel):
        model.check_origin(saved.model, saved.manifest, where=str(saved.path))
    load_trainable_state(model, saved.model, where=str(saved.path))
    try:
        optimizer.load_state_dict(saved.optimizer)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{saved.path}: the optimizer's state does not fit: {error}") from error
    if scaler is not None and saved.scaler:
        scaler.load_state_dict(saved.scaler)


def _broken(path: Path, problems: list[str]) -> CheckpointError:
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return CheckpointError(
        f"{path}: cannot resume from it, its content is damaged: {'; '.join(problems[:3])}{more}"
    )


def _parts(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the states of an optimizer's parts: itself, or those of one that is made of others."""
    if "param_groups" in state:
        return [state]
    return [part for part in state.values() if isinstance(part, Mapping) and "state" in part]


def _state_after_a_step(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `saved` should look like, for the parameters that gradients have reached."""
    expected = optimizer.state_dict()
    parameters = iter([p for group in optimizer.param_groups for p in group["params"]])
    for part, there in zip_longest(_parts(expected), [part["state"] for part in _parts(saved)]):
        for group in part["param_groups"] if part else ():
            for index, parameter in zip(group["params"], parameters, strict=False):
                adamw = {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
                if isinstance(there, Mapping) and index in there:
                    part["state"][index] = adamw if "betas" in group else {"momentum_buffer": parameter}
    return expected


def _differences(name: str, value: Any, like: Any, sizes: bool = True) -> Iterator[str]:
    """Say where `value` cannot take the place of `like`; what it has beyond that does not matter.

    Args:
        sizes: compare those of tensors.
    """
    if isinstance(like, Mapping):
        if not isinstance(value, Mapping) or not like.keys() <= value.keys():
            yield f"{name} should hold {', '.join(map(str, like)) or 'a mapping'}"
            return
        for key, item in like.items():
            place = f"{name}[{key}]" if isinstance(key, int) else f"{name}.{key}"
            yield from _differences(place, value[key], item, sizes)
    elif isinstance(like, list | tuple):
        fits = isinstance(value, list | tuple) and len(value) == len(like)
        if not fits or (name.endswith(".params") and value != like):
            yield f"{name} should be like {like}"
            return
        for number, item in enumerate(like):
            yield from _differences(f"{name}[{number}]", value[number], item, sizes)
    elif isinstance(like, Tensor):
        if not isinstance(value, Tensor):
            yield f"{name} is no tensor but {type(value).__name__}"
        elif value.is_meta or value.layout is not torch.strided:
            yield f"{name} is a tensor without values, or a sparse one"
        elif (value.is_complex(), value.is_floating_point()) != (like.is_complex(), like.is_floating_point()):
            yield f"{name} is of the type {value.dtype}, expected {like.dtype}"
        elif sizes and value.shape != like.shape:
            yield f"{name} has the size {tuple(value.shape)}, expected {tuple(like.shape)}"
        elif not value.isfinite().all():
            yield f"{name} holds NaN or infinity"
    elif isinstance(like, int | float) and not isinstance(like, bool):
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            yield f"{name} is {value!r}, expected a number such as {like}"
    elif value is not None and like is not None and type(value) is not type(like):
        yield f"{name} is {value!r}, expected something like {like!r}"


def check_settings(saved: SavedTraining, progress: TrainProgress, run: Mapping[str, Any]) -> None:
    """Compare the settings of a checkpoint with those of now; warn about changes that take effect.

    Args:
        progress: of the training that is about to resume, before it takes over that of `saved`.
        run: its section ``run`` as plain values.

    Raises:
        ConfigError: a change would go unheeded, or would change what an epoch is; all of them are named.
    """
    before = saved.config["run"]
    problems = [
        f"run.{key} was {before[key]} in {saved.path} and is now {run.get(key)}; it cannot change within a "
        f"training: set it back, or start a new training from the weights (model.ckpt)"
        for key in FIXED
        if key in before and before[key] != run.get(key)
    ]
    if saved.progress.iters_per_epoch != progress.iters_per_epoch:
        problems.append(
            f"run.iters_per_epoch: an epoch had {saved.progress.iters_per_epoch} batches in {saved.path} and "
            f"has {progress.iters_per_epoch} now (null means one pass, which follows from the data, "
            f"run.batch_size_train and the number of processes); set run.iters_per_epoch to "
            f"{saved.progress.iters_per_epoch}, or the others back"
        )
    kept, now = (section.get("parallel", {"strategy": "ddp"})["strategy"] for section in (before, run))
    if kept != now:
        problems.append(
            f"run.parallel.strategy: {saved.path} is of a training with {kept}, and this is one with {now}; "
            "set it back, or start a new training from the weights (model.ckpt)"
        )
    if kept == now == "fsdp" and saved.shards is None:
        problems.append(
            f"{saved.path}: cannot resume from it, it holds the weights alone; to start from these, "
            "name it in model.ckpt instead"
        )
    if now == "ddp" and saved.progress.world_size != progress.world_size:
        problems.append(
            f"{saved.path} is of a training in {saved.progress.world_size} process(es), and this is one in "
            f"{progress.world_size}; start as many as before (torchrun --nproc-per-node)"
        )
    if problems:
        raise ConfigError(problems)
    for key in WATCHED:
        if key in before and before[key] != run[key]:
            logger.warning("run.%s was %s in %s and is now %s", key, before[key], saved.path, run[key])


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
