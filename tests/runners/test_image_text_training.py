"""BLIP-2's first stage and BLIP's models in the training loop at tiny size: interrupted, in two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.toy import metrics_of
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.registry import registry
from xraygpt.runners.launch import launch

ROOT = Path(__file__).parents[2]


class Interrupted(Exception):
    """The end of a training that is stopped on purpose."""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRAYGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


TEXT_PART = {"blip2": "qformer", "blip_caption": "med", "blip_pretrain": "med"}
"""Architecture -> key of its text part's sizes."""
archs = pytest.mark.parametrize("arch", TEXT_PART)


def write(path: Path, output: Path, arch: str, dropout: float, **run: Any) -> Path:
    """Write a training of a tiny model on a few phantoms."""
    sizes = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = {
        "model": {"arch": arch, "model_type": "tiny", TEXT_PART[arch]: sizes},
        "datasets": {
            "phantom": {"splits": {"train": {"seed": 1, "count": 21}, "val": {"seed": 2, "count": 5}}}
        },
        "run": {
            "output_dir": str(output),
            "device": "cpu",
            "optimizer": "muon",
            "init_lr": 1e-3,
            "grad_clip": 1.0,
            "max_epoch": 2,
            "iters_per_epoch": 3,
            "batch_size_train": 4,
            "batch_size_eval": 5,
            "valid_splits": ["val"],
            **run,
        },
    }
    path.write_text(yaml.safe_dump(config))
    return path


def train(cfg: Path, *options: str) -> None:
    launch(Namespace(cfg_path=str(cfg), options=list(options)))


@archs
def test_interrupted_training_goes_on_as_if_nothing_had_happened(
    arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(write(tmp_path / "a.yaml", whole, arch, dropout=0.1, checkpoint_steps=2))
    cfg = write(tmp_path / "b.yaml", stopped, arch, dropout=0.1, checkpoint_steps=2)
    model: Any = registry.get_model_class(arch)
    forward, steps = model.forward, []

    def dying(self: Any, samples: Any) -> Any:
        steps.extend([1] if self.training else [])
        if len(steps) == 6:
            raise Interrupted
        return forward(self, samples)

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", dying)
        with pytest.raises(Interrupted):
            train(cfg)
    train(cfg, "run.resume_ckpt_path=auto")
    assert metrics_of(stopped) == metrics_of(whole)
    assert metrics_of(stopped, "valid") == metrics_of(whole, "valid")
    ours, theirs = (load_checkpoint(folder / "checkpoint_1.pth")["model"] for folder in (stopped, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@archs
def test_two_processes_begin_with_the_losses_of_one(arch: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    # Negatives are drawn anew in each process, so matching is not compared. Of the five pairs to be validated
    # the first process has two batches, the other one.
    short = {"max_epoch": 1, "iters_per_epoch": 2, "batch_size_eval": 2}
    train(write(tmp_path / "a.yaml", one, arch, dropout=0.0, **short))
    cfg = write(tmp_path / "b.yaml", two, arch, dropout=0.0, **short)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    process = subprocess.run(
        [sys.executable, *torchrun, "--cfg-path", str(cfg), "--options", "run.batch_size_train=2"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    ours, theirs = metrics_of(two), metrics_of(one)
    assert len(ours) == len(theirs) == 2
    compared = {"loss_itc", "loss_lm"} & set(ours[0]) or {"loss"}
    for name in compared:
        assert ours[0][name] == pytest.approx(theirs[0][name], rel=1e-4)
    assert len(metrics_of(two, "valid")) == len(metrics_of(one, "valid")) == 1
