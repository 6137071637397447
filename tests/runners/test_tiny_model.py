"""The shipped tiny model in the training loop: killed, in two processes, in reduced precision."""

from __future__ import annotations

import os
import signal
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
from xraygpt.runners.launch import launch

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal, sys
from xraygpt.models.mini_gpt4 import MiniGPT4
import train
forward, calls = MiniGPT4.forward, []
def dying(self, samples):
    calls.extend([1] if self.training else [])
    if len(calls) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(self, samples)
MiniGPT4.forward = dying
sys.exit(train.main())
"""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRAYGPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def write(path: Path, output: Path, **run: Any) -> Path:
    """Write a training of the tiny model's projection, from random, on a few phantoms."""
    config = {
        "model": {
            "arch": "mini_gpt4",
            "model_type": "tiny",
            "ckpt": None,
            "prompt": "",
            "prompt_path": str(ROOT / "prompts" / "alignment.txt"),
        },
        "datasets": {
            "phantom": {"splits": {"train": {"seed": 1, "count": 21}, "val": {"seed": 2, "count": 5}}}
        },
        "run": {
            "output_dir": str(output),
            "device": "cpu",
            "init_lr": 1e-3,
            "max_epoch": 2,
            "iters_per_epoch": 4,
            "batch_size_train": 4,
            "batch_size_eval": 2,
            "log_freq": 2,
            "valid_splits": ["val"],
            **run,
        },
    }
    path.write_text(yaml.safe_dump(config))
    return path


def train_here(cfg: Path, *options: str) -> None:
    launch(Namespace(cfg_path=str(cfg), options=list(options)))


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = {"checkpoint_steps": 2, "grad_clip": 1.0}
    train_here(write(tmp_path / "a.yaml", whole, **settings))
    cfg = write(tmp_path / "b.yaml", killed, **settings)
    process = start("-c", KILLED, "--cfg-path", str(cfg))
    assert process.returncode == -signal.SIGKILL, process.stderr
    # The line of step 7 was not fetched from the device yet; after resuming it is there.
    assert [line["step"] for line in metrics_of(killed)] == list(range(1, 7))
    train_here(cfg, "run.resume_ckpt_path=auto")
    assert metrics_of(killed) == metrics_of(whole)
    assert metrics_of(killed, "valid") == metrics_of(whole, "valid")
    ours, theirs = (load_checkpoint(folder / "checkpoint_1.pth")["model"] for folder in (killed, whole))
    assert list(theirs) == ["llama_proj.weight", "llama_proj.bias"]
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_two_processes_train_the_same_model_as_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train_here(write(tmp_path / "a.yaml", one, max_epoch=1))
    cfg = write(tmp_path / "b.yaml", two, max_epoch=1)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    process = start(*torchrun, "--cfg-path", str(cfg), "--options", "run.batch_size_train=2")
    assert process.returncode == 0, process.stderr
    for event in ("train", "valid"):
        ours, theirs = metrics_of(two, event), metrics_of(one, event)
        assert len(ours) == len(theirs) > 0
        assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-4)
    weights = [load_checkpoint(folder / "checkpoint_0.pth")["model"] for folder in (one, two)]
    for key, value in weights[0].items():
        # AdamW's first steps are of the size of the rate even for gradients that are all rounding.
        torch.testing.assert_close(weights[1][key], value, rtol=0, atol=5e-4)


def test_bf16_trains_float32_weights_to_nearly_the_same_losses(tmp_path: Path) -> None:
    exact, reduced = tmp_path / "exact", tmp_path / "reduced"
    short = {"max_epoch": 1, "valid_splits": []}
    train_here(write(tmp_path / "a.yaml", exact, **short))
    train_here(write(tmp_path / "b.yaml", reduced, precision="bf16", **short))
    ours, theirs = ([line["loss"] for line in metrics_of(folder)] for folder in (reduced, exact))
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.02)
    state = load_checkpoint(reduced / "checkpoint_0.pth")["model"]
    assert all(value.dtype is torch.float32 for value in state.values())
