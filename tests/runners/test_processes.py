"""Trainings in processes of their own: killed, several at once, with bad input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import evaluate
import train
from tests.toy import metrics_of, write_config, write_dataset
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.runners.launch import launch

ROOT = Path(__file__).parents[2]
TOY = [str(ROOT / "tests" / "toy.py")]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    storage = write_dataset(tmp_path / "data")
    settings = {"valid_splits": ["val"], "checkpoint_steps": 4, "num_workers": 1}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    model = {"dropout": 0.3}
    launch(
        Namespace(
            cfg_path=str(write_config(tmp_path / "a.yaml", storage, whole, model, **settings)), options=[]
        )
    )
    cfg = write_config(tmp_path / "b.yaml", storage, killed, model, **settings)
    process = start([*TOY, "--cfg-path", str(cfg), "--options", "model.die_at=11"])
    assert process.returncode == -signal.SIGKILL, process.stderr
    # Steps are written three at a time, and before a checkpoint; the tenth was not yet.
    assert [line["step"] for line in metrics_of(killed)] == list(range(1, 10))
    launch(Namespace(cfg_path=str(cfg), options=["run.resume_ckpt_path=auto"]))
    assert metrics_of(killed) == metrics_of(whole)
    ours, theirs = (load_checkpoint(folder / "checkpoint_1.pth")["model"] for folder in (killed, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_two_processes_train_the_same_model_as_one(tmp_path: Path) -> None:
    storage = write_dataset(tmp_path / "data")
    settings = {"valid_splits": ["val"], "accum_grad_iters": 2, "grad_clip": 1.0}
    one, two = tmp_path / "one", tmp_path / "two"
    launch(Namespace(cfg_path=str(write_config(tmp_path / "a.yaml", storage, one, **settings)), options=[]))
    cfg = write_config(tmp_path / "b.yaml", storage, two, **settings)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start([*torchrun, *TOY, "--cfg-path", str(cfg), "--options", "run.batch_size_train=2"])
    assert process.returncode == 0, process.stderr
    for event in ("train", "valid"):
        ours, theirs = metrics_of(two, event), metrics_of(one, event)
        assert len(ours) == len(theirs) > 0
        for a, b in zip(ours, theirs, strict=True):
            assert a.pop("event") == b.pop("event")
            assert a.pop("split", None) == b.pop("split", None)
            assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    weights = [load_checkpoint(folder / "checkpoint_1.pth")["model"] for folder in (one, two)]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=0, atol=1e-6)


def test_a_loss_of_one_of_two_processes_that_is_not_finite_is_named(tmp_path: Path) -> None:
    storage = write_dataset(tmp_path / "data")
    settings = {"batch_size_train": 2, "group_by_length": True, "checkpoint_steps": 1, "log_freq": 50}
    cfg = write_config(tmp_path / "c.yaml", storage, tmp_path / "out", {"nan_for": "x5"}, **settings)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start([*torchrun, *TOY, "--cfg-path", str(cfg)])
    assert process.returncode == 1
    (line,) = {line for line in process.stderr.splitlines() if line.startswith("error: the loss is nan")}
    names = line.split("image ids of the batch: ")[1].split(". ")[0].split(", ")
    assert "x5" in names
    assert len(names) == 2  # those of the process that met it
    lines = metrics_of(tmp_path / "out")
    assert f" at step {len(lines) + 1};" in line


def test_accumulation_in_two_processes_is_one_big_batch(tmp_path: Path) -> None:
    """Twelve samples of uneven weight make three updates, in one process and in two with two batches each."""
    storage = write_dataset(tmp_path / "data")
    settings = {"min_lr": 0.01, "max_epoch": 1, "grad_clip": 0.5}
    one, two = tmp_path / "one", tmp_path / "two"
    big = {"batch_size_train": 8, "iters_per_epoch": 3}
    cfg = write_config(tmp_path / "a.yaml", storage, one, **settings, **big)
    launch(Namespace(cfg_path=str(cfg), options=[]))
    small = {"batch_size_train": 2, "iters_per_epoch": 6, "accum_grad_iters": 2}
    cfg = write_config(tmp_path / "b.yaml", storage, two, **settings, **small)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start([*torchrun, *TOY, "--cfg-path", str(cfg)])
    assert process.returncode == 0, process.stderr
    weights = [load_checkpoint(folder / "checkpoint_0.pth")["model"] for folder in (one, two)]
    for key, value in weights[0].items():
        # Three updates of at most 0.01, each with a gradient that is exact to about 1e-5 of its size.
        torch.testing.assert_close(weights[1][key], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("program", [train, evaluate])
def test_errors_are_one_line_and_exit_status_2(
    tmp_path: Path, program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = write_config(tmp_path / "c.yaml", tmp_path / "nowhere", tmp_path / "out", test_splits=["val"])
    monkeypatch.setattr(sys, "argv", ["program", "--cfg-path", str(cfg)])
    assert program.main() == 2
    assert "\nerror: missing folder: the data set 'openi'" in "\n" + capsys.readouterr().err


def test_evaluate_prints_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = write_dataset(tmp_path / "data")
    cfg = write_config(tmp_path / "c.yaml", storage, tmp_path / "out", test_splits=["val"])
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--cfg-path", str(cfg)])
    assert evaluate.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "split val"
    assert [line.split()[0] for line in lines[1:]] == ["agg_metrics", "n", "loss", "loss_half"]


@pytest.mark.parametrize("program", ["train.py", "evaluate.py"])
def test_help_is_quick(program: str) -> None:
    started = time.perf_counter()
    process = start([program, "--help"])
    assert process.returncode == 0
    assert "--cfg-path" in process.stdout
    assert time.perf_counter() - started < 1.0
