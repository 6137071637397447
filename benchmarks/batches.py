"""What batches by length and shared rows save on real reports, and whether they train the same.

    python -m benchmarks.batches NLMCXR_reports.tgz

The reports are those of OpenI, as `xraygpt prepare openi` cleans them; the images are noise. A model with
random weights learns them, its language model included, in four ways that take turns at every step: batches
as they come and of like length (`run.group_by_length`), each with a row for every report and with shared rows
(`model.packing`). Within every window of the stream all four have the same reports. Each round begins anew,
with other weights and another order.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from benchmarks.measuring import add_arguments, chosen_device
from benchmarks.report_models import END, SIZES, SPECIAL, Size, build_ours
from benchmarks.report_models import add_arguments as add_model_arguments
from benchmarks.training_step import step
from xraygpt.common.precision import Precision
from xraygpt.datasets.batch import Sample, to_device
from xraygpt.datasets.datasets.base_dataset import ReportDataset
from xraygpt.datasets.stream import WINDOW, TrainStream
from xraygpt.doctor.machine import device_name, timed
from xraygpt.models.llm import load_tokenizer
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.preparation.reports.cleaning import CleaningConfig, clean_report
from xraygpt.preparation.sources.openi import OpenISource
from xraygpt.preparation.study import Study
from xraygpt.preparation.tiny_model import train_llama_tokenizer

WAYS = {
    "random": (False, False),
    "random, shared rows": (False, True),
    "by length": (True, False),
    "by length, shared rows": (True, True),
}
"""Name -> `run.group_by_length`, `model.packing`."""
LONGEST = 220
"""Tokens at which a report is cut, as in the released stage 2."""
VOCABULARY = 2048
"""Pieces of the tokenizer that learns from the reports."""
RATE = 1e-3


class NoiseAndReports(ReportDataset):
    """Reports, each with an image of noise that is always the same."""

    name = "reports"

    def __init__(self, texts: Sequence[str], side: int) -> None:
        self.texts, self.side = texts, side

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Sample:
        noise = torch.randn(3, self.side, self.side, generator=torch.Generator().manual_seed(index))
        return {"image": noise, "caption": self.texts[index], "image_id": str(index), "source": self.name}

    def caption(self, index: int) -> str:
        """Return a report."""
        return self.texts[index]


@dataclass
class Found:
    """What was found of one way."""

    seconds: list[float] = field(default_factory=list)
    """Of each round."""
    losses: list[float] = field(default_factory=list)
    """Mean of a token over the last window of each round."""
    positions: int = 0
    """Of the language model, in all rounds."""
    padded: int = 0
    """How many of these are padding."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Random batches, batches by length, shared rows.")
    parser.add_argument("reports", type=Path, help="NLMCXR_reports.tgz, or a folder with its XML files")
    parser.add_argument("--windows", type=int, default=2, help=f"of {WINDOW} batches (default: %(default)s)")
    add_model_arguments(parser)
    add_arguments(parser, rounds=3)
    parser.set_defaults(size="tiny", batch=16)
    args = parser.parse_args(arguments)
    device, precision = chosen_device(args)
    texts = openi_reports(args.reports)
    size, tokenizer = with_tokenizer(SIZES[args.size], texts)
    lengths = [len(row) for row in tokenizer(texts, add_special_tokens=False).input_ids]
    print(
        f"{len(texts):,} reports of {statistics.mean(lengths):.0f} tokens (standard deviation "
        f"{statistics.stdev(lengths):.0f}), {args.size}, batches of {args.batch}, {args.rounds} rounds of "
        f"{args.windows * WINDOW} steps, {device_name(device)}\n"
    )
    found = compare(
        texts,
        size,
        device,
        precision,
        batch=args.batch,
        steps=args.windows * WINDOW,
        rounds=args.rounds,
        tokenizer=tokenizer,
        learn=True,
    )
    print(table(found))
    if args.json is not None:
        figures = {name: asdict(way) for name, way in found.items()}
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def openi_reports(path: Path) -> list[str]:
    """Return the reports that `xraygpt prepare openi` keeps."""
    studies = [study for study in OpenISource(path).studies() if isinstance(study, Study)]
    cleaned = [clean_report(study.sections, CleaningConfig()) for study in studies]
    return [report.caption for report in cleaned if report.outcome == "kept"]


def drawn_reports(number: int, words: int) -> list[str]:
    """Return random words for the tokenizer of `report_models`, of lengths spread as OpenI's are."""
    numbers = np.random.default_rng(0)
    lengths = numbers.gamma(shape=4.0, scale=12.0, size=number).astype(int) + 3
    return [" ".join(f"w{n}" for n in numbers.integers(len(SPECIAL), words, length)) for length in lengths]


def with_tokenizer(size: Size, texts: Sequence[str]) -> tuple[Size, PreTrainedTokenizerBase]:
    """Return a tokenizer that has learnt from the reports, and the size with its vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        train_llama_tokenizer(texts, Path(folder), VOCABULARY, symbols=[END])
        tokenizer = load_tokenizer(Path(folder))
    return replace(size, llama={**size.llama, "vocab_size": len(tokenizer)}), tokenizer


def compare(
    texts: Sequence[str],
    size: Size,
    device: torch.device,
    precision: Precision,
    *,
    batch: int,
    steps: int,
    rounds: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
    learn: bool = False,
) -> dict[str, Found]:
    """Train in all ways in turns.

    Args:
        steps: of a round; only after a multiple of `WINDOW` all ways have had the same reports.
        tokenizer: of the reports; by default that of `report_models`.
        learn: each way has a model of its own, whose language model it trains too; else all share one, of
            which they train the projection, and their losses tell nothing.
    """
    found = {name: Found() for name in WAYS}
    data = NoiseAndReports(texts, size.image_size)
    for seed in range(rounds):
        model = build_ours(size, device, precision, seed, tokenizer)
        model.max_txt_len = LONGEST
        model.llama_model.requires_grad_(learn)
        ways: dict[str, Callable[[int], tuple[float, dict[str, Tensor]]]] = {}
        for name, (grouped, packed) in WAYS.items():
            lengths = model.caption_lengths if grouped else None
            stream = TrainStream([data], [1.0], batch, seed, lengths_of=lengths)
            ways[name] = _way(copy.deepcopy(model) if learn else model, packed, stream, device, precision)
            ways[name](0)  # so that none is timed while memory is asked for the first time
        seconds, losses = dict.fromkeys(WAYS, 0.0), {name: list[tuple[float, int]]() for name in WAYS}
        for number in range(steps):
            for name, way in ways.items():
                taken, outputs = way(number)
                seconds[name] += taken
                losses[name].append((outputs["loss"].item(), int(outputs["num_targets"])))
                found[name].positions += int(outputs["num_positions"])
                found[name].padded += int(outputs["num_padded"])
        for name, each in found.items():
            each.seconds.append(seconds[name])
            last = losses[name][-WINDOW:]
            tokens = sum(targets for _, targets in last)
            each.losses.append(sum(loss * targets for loss, targets in last) / tokens)
    return found


def _way(
    model: MiniGPT4, packed: bool, stream: TrainStream, device: torch.device, precision: Precision
) -> Callable[[int], tuple[float, dict[str, Tensor]]]:
    """Return what makes a step of a number, and gives its seconds and what the model returned."""
    settings = replace(model.config, packing=packed)
    samples: dict[str, Any] = {}
    outputs: dict[str, Tensor] = {}

    def loss() -> Tensor:
        outputs.update(model(samples))
        return outputs["loss"]

    run = step(loss, model, precision, rate=RATE)

    def way(number: int) -> tuple[float, dict[str, Tensor]]:
        batch = stream[number]
        assert isinstance(batch, dict), batch
        samples.update(to_device(batch, device))
        model.config = settings
        return timed(run, device), outputs

    return way


def table(found: dict[str, Found]) -> str:
    """Return the figures of all ways, against the first one."""
    base, *_ = found.values()
    lines = [
        "| way | time | as `random` | padding | loss of a token, by round |",
        "|---|---|---|---|---|",
    ]
    for name, way in found.items():
        ratio = statistics.median(a / b for a, b in zip(base.seconds, way.seconds, strict=True))
        losses = ", ".join(f"{loss:.3f}" for loss in way.losses)
        padding = way.padded / way.positions
        lines.append(f"| {name} | {sum(way.seconds):.1f} s | {ratio:.2f}x | {padding:.1%} | {losses} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
