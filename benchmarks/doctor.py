"""How far what ``xraygpt doctor`` expects is from what happens.

    python -m benchmarks.doctor --sizes tiny small
    python -m benchmarks.doctor --cfg-path train_configs/quickstart/alignment.yaml --steps 30

The first measures steps of the models of the other benchmarks within this process, before and after the
doctor's own measurement, so that both see the same machine. The second trains a configuration for some steps
in a process of its own and compares the seconds of a step, and the most memory that the process took.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch

from benchmarks.measuring import counted_flop, peak_bytes
from benchmarks.report_models import SIZES, Data, build_ours
from benchmarks.training_step import step
from xraygpt.common.precision import Precision
from xraygpt.common.run_config import RunConfig
from xraygpt.doctor.calibration import Calibration, Durations
from xraygpt.doctor.dry_run import DryRun
from xraygpt.doctor.examination import DryTraining, examine
from xraygpt.doctor.machine import Clock, timed
from xraygpt.tasks.base_task import BaseTask

CPU = torch.device("cpu")
FLOAT32 = Precision(torch.float32, "cpu")
ROUNDS = 4
"""Steps measured before the doctor's measurement, and again after it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of what was expected and what was found."""
    parser = argparse.ArgumentParser(description="What `xraygpt doctor` expects against what happens (CPU).")
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=[], help="models with random weights")
    parser.add_argument("--cfg-path", help="a configuration to train for some steps")
    parser.add_argument("--steps", type=int, default=30, help="of this training (default: 30)")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="for --cfg-path")
    parser.add_argument(
        "--processor-time", action="store_true", help="measure --sizes by processor time, on a busy machine"
    )
    args = parser.parse_args(arguments)
    clock = time.process_time if args.processor_time else time.perf_counter
    print(
        "| what | seconds expected | found | ratio | MiB expected | found | ratio | GFLOP expected | found |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    parts: list[str] = []
    for name in args.sizes:
        comparison, durations = compare_size(name, clock)
        print(comparison)
        shares = [f"{part} {seconds / durations.total:.0%}" for part, seconds in durations.parts.items()]
        parts.append(f"{name}: {', '.join(shares)}.")
    if args.cfg_path:
        print(compare_training(args.cfg_path, args.steps, args.options))
    print("\n" + "\n".join(parts))


def compare_size(name: str, clock: Clock) -> tuple[str, Durations]:
    """Return a row of the table for a model of `SIZES`, and the times expected of its parts.

    Memory is that beside the weights.
    """
    size = SIZES[name]
    samples = Data.draw(size, size.batch, CPU).samples()
    dry = DryRun(CPU)
    with dry, torch.device(CPU):
        skeleton = build_ours(size, CPU, FLOAT32)
    dry.count(skeleton)
    training = DryTraining(RunConfig(), BaseTask(), skeleton, dry, FLOAT32)
    expected = training.step(samples)
    memory = training.memory(expected, 0)

    ours = build_ours(size, CPU, FLOAT32)
    ours.train()
    run = step(lambda: ours(samples)["loss"], ours, FLOAT32)
    flop = counted_flop(run)
    peak = peak_bytes(lambda: [run() for _ in range(ROUNDS)], CPU)
    before = [timed(run, CPU, clock) for _ in range(ROUNDS)]
    durations = Calibration(CPU, clock).measure(expected, 10.0)
    after = [timed(run, CPU, clock) for _ in range(ROUNDS)]
    found = statistics.median(before + after)
    gflop = sum(expected.flop.values()) / 1e9
    comparison = row(
        f"{name}, batches of {size.batch}", durations.total, found, memory.activations, peak, gflop, flop
    )
    return comparison, durations


def compare_training(path: str, steps: int, changes: Sequence[str] = (), budget: float = 10.0) -> str:
    """Return a row of the table for some steps of a configuration."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"run.output_dir={folder}", "run.max_epoch=1", f"run.iters_per_epoch={steps}"]
        options += ["run.valid_splits=[]", "run.test_splits=[]", "run.device=cpu", *changes]
        found = examine(SimpleNamespace(cfg_path=path, options=options), budget=budget)
        command = [sys.executable, "-m", "xraygpt", "train", "--cfg-path", path, "--options", *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"error: the training failed: {' '.join(command)}")
        lines = Path(folder, "metrics.jsonl").read_text().splitlines()
    times = [record["seconds"] for record in map(json.loads, lines) if record["event"] == "train"]
    seconds = statistics.median(later - earlier for earlier, later in itertools.pairwise(times))
    assert found.memory is not None
    return row(
        path, found.step_seconds, seconds, found.memory.peak, used.ru_maxrss * 1024, found.flop / 1e9, None
    )


def row(
    what: str, seconds: float, found: float, nbytes: int, peak: int | None, gflop: float, flop: int | None
) -> str:
    """Return a row of the table."""
    memory = f"{peak / 2**20:,.0f} | {nbytes / peak:.2f}" if peak else "– | –"
    counted = "–" if flop is None else f"{flop / 1e9:,.2f}"
    return (
        f"| {what} | {seconds:.4g} | {found:.4g} | {seconds / found:.2f} "
        f"| {nbytes / 2**20:,.0f} | {memory} | {gflop:,.2f} | {counted} |"
    )


if __name__ == "__main__":
    main()
