"""Runs that are stopped, or lose a process or their disk: one line says why and how to resume."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from tests.toy import metrics_of, write_config, write_dataset
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.runners.launch import launch

ROOT = Path(__file__).parents[2]
TOY = str(ROOT / "tests" / "toy.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        **settings,
    )


def said(process: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what the program itself has printed on stderr, without log lines and torchrun's."""
    beginnings = ("error:", "interrupted", "stopped by", "process ", "Traceback", "Exception ignored")
    return [line for line in process.stderr.splitlines() if line.startswith(beginnings)]


@pytest.fixture
def cfg(tmp_path: Path) -> Path:
    storage = write_dataset(tmp_path / "data")
    return write_config(tmp_path / "c.yaml", storage, tmp_path / "out", checkpoint_steps=2)


@pytest.mark.parametrize(
    ("death", "status", "words"),
    [
        ("SIGINT", 130, "interrupted; "),
        ("SIGTERM", 143, "stopped by SIGTERM; "),
        ("worker", 1, "error: a process that loads data has ended: DataLoader worker (pid"),
        ("bug", 1, "error: ZeroDivisionError: a fault in the program (traceback in "),
    ],
)
def test_a_stopped_training_says_how_to_resume(
    tmp_path: Path, cfg: Path, death: str, status: int, words: str
) -> None:
    options = ["run.num_workers=1", "run.resume_ckpt_path=null"]
    deadly = ["model.die_at=5", f"model.die_by={death}"]
    process = start(TOY, "--cfg-path", str(cfg), "--options", *options, *deadly)
    assert process.returncode == status, process.stderr
    (line,) = said(process)
    assert line.startswith(words)
    command = line.split("resume with: ")[1]
    assert command == (
        f"python {TOY} --cfg-path {cfg} --options run.num_workers=1 {' '.join(deadly)} "
        "run.resume_ckpt_path=auto"
    )
    assert not list((tmp_path / "out").glob(".*"))
    log = (tmp_path / "out" / "log.txt").read_text()
    assert ("Traceback" in log) == (status == 1)
    assert "Traceback" not in process.stderr
    options = [*command.split("--options ")[1].split(), "model.die_at=0"]
    launch(Namespace(cfg_path=str(cfg), options=options))
    assert [row["step"] for row in metrics_of(tmp_path / "out")] == list(range(1, 13))


def test_before_the_first_checkpoint_the_training_starts_again(cfg: Path) -> None:
    process = start(TOY, "--cfg-path", str(cfg), "--options", "model.die_at=1", "model.die_by=SIGTERM")
    (line,) = said(process)
    expected = (
        f"start again with: python {TOY} --cfg-path {cfg} --options model.die_at=1 model.die_by=SIGTERM"
    )
    assert line == f"stopped by SIGTERM; {expected}"


def test_a_stopped_evaluation_is_resumed_by_the_same_command(tmp_path: Path) -> None:
    storage = write_dataset(tmp_path / "data")
    settings = {"task": "report_generation", "evaluate": True, "test_splits": ["val"]}
    cfg = write_config(tmp_path / "c.yaml", storage, tmp_path / "out", **settings)
    process = subprocess.run(
        [sys.executable, TOY, "--cfg-path", str(cfg)],
        env={**ENVIRONMENT, "TOY_DIES_AT_BATCH": "2", "TOY_DIES_BY": "SIGINT"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 130
    assert said(process) == [f"interrupted; resume with: python {TOY} --cfg-path {cfg}"]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_process_of_two_is_told_once(tmp_path: Path, cfg: Path, victim: int) -> None:
    deadly = ["model.die_at=5", f"model.die_rank={victim}"]
    process = start(*TORCHRUN, TOY, "--cfg-path", str(cfg), "--options", *deadly)
    assert process.returncode == 1
    lines = said(process)
    if victim == 1:
        (line,) = lines[:1]
        assert line.startswith(("error: another process of this run has ended", "stopped by SIGTERM"))
        command = line.split("resume with: ")[1]
        assert command == (
            f"torchrun --nproc-per-node 2 {TOY} --cfg-path {cfg} --options {' '.join(deadly)} "
            "run.resume_ckpt_path=auto"
        )
    assert [line for line in lines if not line.startswith("Traceback")] == lines[: victim == 1]
    assert load_checkpoint(tmp_path / "out" / "checkpoint_last.pth")["global_step"] == 4


def test_a_sample_that_cannot_be_read_is_told_by_the_process_that_met_it(tmp_path: Path) -> None:
    storage = write_dataset(tmp_path / "data", train=4)
    for number in range(4):
        (storage / "image" / f"x{number}.png").write_bytes(b"damaged")
    cfg = write_config(tmp_path / "c.yaml", storage, tmp_path / "out", num_workers=1)
    process = start(TOY, "--cfg-path", str(cfg))
    assert process.returncode == 2
    (line,) = said(process)
    assert line.endswith("remove it, or set datasets.openi.skip_corrupt: true")


def test_a_full_disk_is_told_and_leaves_whole_checkpoints(tmp_path: Path, cfg: Path) -> None:
    """The limit of a file's size stands for a disk; the checkpoint is the largest file that is written."""
    trained = start(TOY, "--cfg-path", str(cfg), "--options", "run.max_epoch=1")
    assert trained.returncode == 0, trained.stderr
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.pth")}
    limit = max(map(len, whole.values())) - 500
    for name in ("log.txt", "metrics.jsonl"):
        assert (tmp_path / "out" / name).stat().st_size < limit

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = start(TOY, "--cfg-path", str(cfg), "--options", "run.resume_ckpt_path=auto", preexec_fn=small)
    assert process.returncode == 2, process.stderr
    (line,) = said(process)
    assert line.startswith(f"error: {tmp_path / 'out' / 'checkpoint_last.pth'}: File too large; once that is")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.pth")} == whole
    assert not list((tmp_path / "out").glob(".*"))


def test_a_log_file_that_cannot_be_written_is_named(tmp_path: Path, cfg: Path) -> None:
    (tmp_path / "out" / "log.txt").mkdir(parents=True)
    process = start(TOY, "--cfg-path", str(cfg))
    assert process.returncode == 2
    assert said(process)[0].startswith(f"error: {tmp_path / 'out' / 'log.txt'}: Is a directory")
