"""Everything worth knowing about one GPU, in one command of a few minutes.

    python -m benchmarks.gpu

writes ``benchmarks/results/<name of the GPU>.md``: training steps of the released recipe at full size over
batch sizes, without and with the output of the frozen parts from memory, without and with torch.compile and
liger's kernels, memory against what ``xraygpt doctor`` expects; real pixels from prepared files; batches by
length and shared rows; the largest batch of generation; the comparisons of `benchmarks.training_step` and
`benchmarks.generation`. What the time does not suffice for is named as left out. ``--dry-run`` goes through
all of it on the CPU at the smallest size, but for liger's kernels.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import batches, generation, training_step
from benchmarks.measuring import Results, measure
from benchmarks.report_models import SIZES, Data, build_ours
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.common.precision import Precision, resolve_precision
from xraygpt.common.registry import registry
from xraygpt.common.run_config import RunConfig
from xraygpt.datasets.builders.base_dataset_builder import BaseDatasetBuilder, BuildInfo, DatasetConfig
from xraygpt.datasets.stream import BatchLoader, TrainStream
from xraygpt.doctor.dry_run import DryRun
from xraygpt.doctor.examination import DryTraining
from xraygpt.doctor.machine import device_name, timed
from xraygpt.preparation.cli import main as prepare
from xraygpt.runners.compiling import compile_blocks, use_liger
from xraygpt.tasks.base_task import BaseTask
from xraygpt.tasks.report_generation import largest_that_fits

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    size: str
    batches: tuple[int, ...]
    """Batch sizes of the training steps, small to large."""
    stages: dict[str, int]
    """Name -> target tokens of each report."""
    rounds: int
    compared_batch: int
    reports: int
    """Written in one batch."""
    new_tokens: int
    alone: int
    """Reports written one after the other."""
    studies: int
    """Prepared for the measurement with real pixels."""
    loaded_batches: int
    steps: int
    """Of each way of making batches."""
    compiler: str = "inductor"
    """Backend of torch.compile."""


FULL = Plan(
    size="7b",
    batches=(3, 16, 32, 64, 128),
    stages={"stage 1": 32, "stage 2": 220},
    rounds=5,
    compared_batch=32,
    reports=256,
    new_tokens=64,
    alone=4,
    studies=256,
    loaded_batches=20,
    steps=64,
)
DRY = Plan(
    size="tiny",
    batches=(2, 4),
    stages={"stage 1": 4},
    rounds=1,
    compared_batch=3,
    reports=2,
    new_tokens=3,
    alone=1,
    studies=4,
    loaded_batches=2,
    steps=2,
    compiler="eager",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the GPU and write its page; return the exit status."""
    parser = argparse.ArgumentParser(description="Measure one GPU in a few minutes.")
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit (default: %(default)g)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, at the smallest size")
    args = parser.parse_args(arguments)
    if not args.dry_run and not torch.cuda.is_available():
        print(
            "error: no GPU here, and this measures one; --dry-run goes through it on the CPU", file=sys.stderr
        )
        return 2
    device = torch.device("cpu" if args.dry_run else "cuda:0")
    plan = DRY if args.dry_run else FULL
    text = page(plan, device, resolve_precision("auto", None, device), args.minutes * 60)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"{re.sub(r'[^a-z0-9]+', '-', device_name(device).lower()).strip('-')}.md"
    file.write_text(text, encoding="utf-8")
    print(f"{text}\nwritten: {file}")
    return 0


def page(plan: Plan, device: torch.device, precision: Precision, seconds: float) -> str:
    """Return all sections; those for which no time is left are named."""
    began = time.perf_counter()
    sections: list[tuple[str, Callable[[], str]]] = [
        *(
            (f"Training, {stage}", _sweep_of(plan, tokens, device, precision))
            for stage, tokens in plan.stages.items()
        ),
        ("Generation", lambda: _generation(plan, device, precision)),
        ("Largest batch of generation", lambda: _largest_batch(plan, device, precision)),
        ("Training, three ways", lambda: _comparison(plan, device, precision)),
        ("Real pixels", lambda: real_pixels(plan, device, precision)),
        ("Reports of unequal length", lambda: _unequal_reports(plan, device, precision)),
        ("Kernels of liger", lambda: _liger(plan, device, precision)),
    ]
    lines = [f"# {device_name(device)}", "", "Written by `python -m benchmarks.gpu`.", ""]
    for title, run in sections:
        print(f"{title} …", file=sys.stderr)
        lines += [f"## {title}", ""]
        if time.perf_counter() - began > seconds:
            lines += ["Left out: the time was up.", ""]
            continue
        try:
            lines += [run(), ""]
        except (torch.OutOfMemoryError, ConfigError) as error:
            lines += [f"Left out: {str(error).splitlines()[0]}", ""]
        _free(device)
    lines.append(f"All of it took {time.perf_counter() - began:.0f} s.")
    return "\n".join(lines) + "\n"


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _sweep_of(plan: Plan, tokens: int, device: torch.device, precision: Precision) -> Callable[[], str]:
    return lambda: sweep(plan, tokens, device, precision)


def sweep(plan: Plan, tokens: int, device: torch.device, precision: Precision) -> str:
    """Measure our training steps over batch sizes, and what `xraygpt doctor` expects of their memory."""
    size = SIZES[plan.size]
    ours = build_ours(size, device, precision)
    ours.train()
    tables: list[str] = []
    fitting: list[int] = []
    for batch in plan.batches:
        data = Data.draw(size, batch, device, tokens)
        try:
            results = measure(
                f"Batches of {batch}",
                training_step.our_ways(ours, data, precision),
                device,
                precision,
                plan.rounds,
            )
        except torch.OutOfMemoryError:
            tables.append(f"Batches of {batch} do not fit.")
            _free(device)
            break
        fitting.append(batch)
        tables += [results.table(), _memory(plan, results, tokens, batch, device, precision)]
    if fitting:
        compile_blocks(ours, device, plan.compiler)
        data = Data.draw(size, fitting[-1], device, tokens)
        title = f"Batches of {fitting[-1]}, with run.compile"
        tables.append(
            measure(
                title, training_step.our_ways(ours, data, precision), device, precision, plan.rounds
            ).table()
        )
    return "\n\n".join(tables)


def _memory(
    plan: Plan, results: Results, tokens: int, batch: int, device: torch.device, precision: Precision
) -> str:
    measured = results.ways[0].peak_bytes
    dry = DryRun(device)
    with dry, torch.device(device):
        skeleton = build_ours(SIZES[plan.size], device, precision)
    dry.count(skeleton)
    training = DryTraining(RunConfig(), BaseTask(), skeleton, dry, precision)
    data = Data.draw(SIZES[plan.size], batch, torch.device("cpu"), tokens)
    memory = training.memory(training.step(data.samples()), 0)
    expected = memory.gradients + memory.activations
    found = "not measured" if measured is None else f"{measured / 2**30:.2f} GiB"
    return f"Memory beside weights and optimizer: {found}; the doctor expects {expected / 2**30:.2f} GiB."


def _generation(plan: Plan, device: torch.device, precision: Precision) -> str:
    return generation.compare(
        plan.size, device, precision, min(plan.rounds, 3), plan.reports, plan.new_tokens, plan.alone
    ).table()


def _largest_batch(plan: Plan, device: torch.device, precision: Precision) -> str:
    """Tell what `run.batch_size_eval: auto` would find for this model."""
    size = SIZES[plan.size]
    model = build_ours(size, device, precision)

    def write(batch: int) -> None:
        with precision.autocast():
            generation.write(model, Data.draw(size, batch, device), plan.new_tokens)

    began = time.perf_counter()
    largest = largest_that_fits(write, plan.reports)
    return (
        f"Of 1, 2, 4, … up to {plan.reports}, {largest} images fit for {plan.new_tokens} tokens each. "
        f"Finding that took {time.perf_counter() - began:.1f} s."
    )


def _unequal_reports(plan: Plan, device: torch.device, precision: Precision) -> str:
    size, batch = SIZES[plan.size], plan.compared_batch
    texts = batches.drawn_reports(batch * plan.steps, size.llama["vocab_size"] - 1)
    found = batches.compare(texts, size, device, precision, batch=batch, steps=plan.steps, rounds=1)
    title = f"Random words, lengths as in OpenI, batches of {batch}; the losses tell nothing."
    return f"{title}\n\n{batches.table(found)}"


def _liger(plan: Plan, device: torch.device, precision: Precision) -> str:
    """Measure training steps with liger's kernels: last of all, as transformers' classes keep them."""
    size, tokens = SIZES[plan.size], list(plan.stages.values())[-1]
    ours = build_ours(size, device, precision)
    ours.train()
    data = Data.draw(size, plan.compared_batch, device, tokens)
    with torch.no_grad(), precision.autocast():
        plain = ours(data.samples())["loss"]
        use_liger(ours, device)
        training_step.check_close("liger", ours(data.samples())["loss"], plain, precision.dtype)
    title = f"Batches of {plan.compared_batch}, {tokens} target tokens, with run.kernels: liger"
    ways = training_step.our_ways(ours, data, precision)
    return measure(title, ways, device, precision, plan.rounds).table()


def _comparison(plan: Plan, device: torch.device, precision: Precision) -> str:
    tokens = next(iter(plan.stages.values()))
    return training_step.compare(
        plan.size, device, precision, plan.rounds, plan.compared_batch, tokens
    ).table()


def real_pixels(plan: Plan, device: torch.device, precision: Precision) -> str:
    """Train on prepared files through the loader, and tell how fast it is alone and with the model."""
    size = SIZES[plan.size]
    batch = plan.compared_batch
    workers = max((os.cpu_count() or 1) - 1, 1)
    ours = build_ours(size, device, precision)
    ours.train()
    samples = Data.draw(size, batch, device, next(iter(plan.stages.values()))).samples()

    def loss() -> Tensor:
        return ours(samples)["loss"]

    step = training_step.step(loss, ours, precision)
    with tempfile.TemporaryDirectory() as folder:
        words = ["phantom", "--studies", str(plan.studies), "--size", "512", "--out", f"{folder}/data"]
        if status := prepare(words):
            raise DataError(f"preparing images failed with status {status}")
        batches = _prepared(Path(folder, "data"), size.image_size, batch, workers, device)
        samples["image"] = next(batches)["image"].to(device)
        step()

        def load(number: int = plan.loaded_batches) -> None:
            for _ in range(number):
                next(batches)

        def train(number: int = plan.loaded_batches) -> None:
            for _ in range(number):
                samples["image"] = next(batches)["image"].to(device, non_blocking=True)
                step()

        alone, together = timed(load, device), timed(train, device)
    images = batch * plan.loaded_batches
    return (
        f"Prepared files (512 px), batches of {batch}, {workers} loading processes: the loader alone gives "
        f"{images / alone:,.3g} images/s, the training {images / together:,.3g} images/s."
    )


def _prepared(folder: Path, side: int, batch: int, workers: int, device: torch.device) -> Iterator[Any]:
    """Yield batches of a prepared folder without end."""
    processor = {"train": {"name": "blip2_image_train", "image_size": side}}
    config = DatasetConfig(build_info=BuildInfo(storage=str(folder)), vis_processor=processor)
    builder = registry.get_builder_class("openi", BaseDatasetBuilder)(config)
    stream = TrainStream([builder.build_datasets()["train"]], [1.0], batch_size=batch, seed=0)
    return iter(BatchLoader(stream, num_workers=workers, pin_memory=device.type == "cuda"))


if __name__ == "__main__":
    sys.exit(main())
