"""Checkpoints with something wrong inside are refused by file and key before anything is put back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.toy import ToyModel
from xraygpt.common.errors import CheckpointError
from xraygpt.common.optims import build_optimizer
from xraygpt.common.run_config import RunConfig
from xraygpt.runners.train_state import TrainProgress, read_training, restore_training, save_training

NAN = float("nan")
WEIGHT = "head.weight"
Change = Callable[[dict[str, Any]], Any]


def parts(optimizer: str = "adamw") -> tuple[ToyModel, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = ToyModel()
    settings = RunConfig(optimizer=optimizer, init_lr=0.1, weight_decay=0.1, beta2=0.9)
    return model, build_optimizer(model, settings)


def saved(path: Path, scaler: torch.amp.GradScaler | None = None, optimizer: str = "adamw") -> dict[str, Any]:
    """Write a checkpoint after one step; return its content."""
    model, optim = parts(optimizer)
    model.head(torch.ones(1, 16)).sum().backward()
    optim.step()
    progress = TrainProgress(global_step=4, completed_epochs=1, iters_per_epoch=4, world_size=1)
    config = {"run": {"seed": 1}, "model": {"arch": "toy"}}
    rest = {"config": config, "epoch": 0, "progress": progress, "job_id": "1"}
    save_training(path, model=model, optimizer=optim, scaler=scaler, **rest)
    return torch.load(path, weights_only=True)


def restore(path: Path, scaler: torch.amp.GradScaler | None = None, optimizer: str = "adamw") -> None:
    model, optim = parts(optimizer)
    restore_training(read_training(path), model=model, optimizer=optim, scaler=scaler)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("scaled", [False, True])
def test_what_was_saved_is_put_back(tmp_path: Path, optimizer: str, scaled: bool) -> None:
    scaler = torch.amp.GradScaler("cpu") if scaled else None
    saved(tmp_path / "c.pth", scaler, optimizer)
    restore(tmp_path / "c.pth", scaler, optimizer)


def entry(*keys: Any, value: Any) -> Change:
    """Return what puts `value` at the end of a path of keys."""

    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def entries(*keys: str, convert: Callable[[Any], Any]) -> Change:
    """Return what changes all tensors of a mapping, of one name if that is the last key."""

    def change(content: dict[str, Any]) -> None:
        for key in keys:
            content = content[key]
        for name, value in content.items():
            if isinstance(value, dict):
                value["exp_avg"] = convert(value["exp_avg"])
            else:
                content[name] = convert(value)

    return change


TENSORS: dict[str, Callable[[torch.Tensor], Any]] = {
    "nan": lambda t: t * NAN,
    "inf": lambda t: t + torch.inf,
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "complex": lambda t: t.to(torch.complex64),
    "int": lambda t: t.long(),
    "number": lambda t: 3,
    "none": lambda t: None,
    "size": lambda t: torch.zeros(7, 3),
}
BROKEN: dict[str, tuple[str, Change]] = {
    **{f"model {n}": ("head", entries("model", convert=f)) for n, f in TENSORS.items()},
    **{
        f"optimizer {n}": (r"optimizer.state\[0\].exp_avg", entries("optimizer", "state", convert=f))
        for n, f in TENSORS.items()
    },
    **{
        f"{key} {value!r}": (key, entry(key, value=value))
        for key in ("model", "optimizer", "config", "scaler", "epoch", "global_step", "progress", "manifest")
        for value in ("x", [1], 2.5, torch.zeros(2), None)
        if not (key == "scaler" and value is None)
    },
    **{
        f"progress {key} {value!r}": (key, entry("progress", key, value=value))
        for key in ("global_step", "completed_epochs", "iters_per_epoch", "world_size")
        for value in ("x", None, -5, 2.5, torch.zeros(2))
    },
    "progress in the future": ("global_step", entry("progress", "completed_epochs", value=10**9)),
    "progress unknown": ("foo", entry("progress", "foo", value=1)),
    "progress best": ("best_metric", entry("progress", "best_metric", value=NAN)),
    "steps differ": ("global_step", entry("global_step", value=5)),
    "config run": ("config", entry("config", "run", value=[1])),
    "config tensor": ("config", entry("config", "run", "seed", value=torch.zeros(2))),
    "manifest type": ("manifest.parameters", entry("manifest", "parameters", value="x")),
    "manifest none": ("manifest.model", entry("manifest", "model", value=None)),
    "manifest tensor": ("manifest", entry("manifest", "model", value=torch.zeros(2))),
    "weights empty": ("head", entry("model", value={})),
    "weights unknown": ("3", entry("model", 3, value=torch.zeros(1))),
    "optimizer empty": ("optimizer", entry("optimizer", value={})),
    # With a scaler all steps so far may have been left out.
    "no state": ("optimizer.state", lambda c: (c["optimizer"].update(state={}), c.update(scaler=None))),
    "state text": ("optimizer", entry("optimizer", "state", value="x")),
    "state list": (r"optimizer.state\[0\]", entry("optimizer", "state", 0, value=[1])),
    "state half": ("step, exp_avg, exp_avg_sq", entry("optimizer", "state", 0, value={})),
    "groups number": ("param_groups", entry("optimizer", "param_groups", value=3)),
    "groups fewer": ("param_groups", entry("optimizer", "param_groups", value=[])),
    "groups of numbers": (r"param_groups\[0\]", entry("optimizer", "param_groups", value=[1, 2])),
    "other parameters": (r"param_groups\[0\]", entry("optimizer", "param_groups", 0, "params", value=[5])),
    **{
        f"rate {value!r}": (r"param_groups\[0\].lr", entry("optimizer", "param_groups", 0, "lr", value=value))
        for value in ("x", None, NAN, [0.1], torch.zeros(2))
    },
    "betas": (r"param_groups\[0\].betas", entry("optimizer", "param_groups", 0, "betas", value=(0.9,))),
    "scaler half": ("scaler", entry("scaler", value={"scale": 1.0})),
    "scaler nan": ("scaler.scale", entry("scaler", "scale", value=NAN)),
    "scaler words": ("scaler.scale", entry("scaler", "scale", value="x")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_one_wrong_value_is_named(tmp_path: Path, name: str) -> None:
    words, change = BROKEN[name]
    scaler = torch.amp.GradScaler("cpu")
    content = copy.deepcopy(saved(tmp_path / "c.pth", scaler))
    change(content)
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=rf"c\.pth(.|\n)*{words}"):
        restore(tmp_path / "c.pth", scaler)
