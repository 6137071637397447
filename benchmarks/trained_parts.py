"""What a training step costs by what is trained of the language model: nothing, an adapter, or all of it.

    python -m benchmarks.trained_parts --size small

One step is forward, backward and AdamW, on the same random images and reports. The projection is trained in
all; memory is that beside the weights and what the optimizer keeps, which the column of parameters tells.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks.measuring import Results, Way, add_arguments, chosen_device, measure, report
from benchmarks.report_models import SIZES, Data, build_ours
from benchmarks.report_models import add_arguments as add_model_arguments
from benchmarks.training_step import step
from xraygpt.common.precision import Precision
from xraygpt.models import MiniGPT4

WAYS: dict[str, dict[str, Any]] = {
    "projection alone": {},
    "with LoRA": {"adapter": {"r": 16, "alpha": 32, "dropout": 0.0}},
    "with LoRA, recomputed": {"adapter": {"r": 16, "alpha": 32, "dropout": 0.0}, "llm_grad_checkpoint": True},
    "with LoRA, 4 bits": {"adapter": {"r": 16, "alpha": 32, "dropout": 0.0}, "llm_precision": "nf4"},
    "all of the language model": {"freeze_llm": False},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of one size."""
    parser = argparse.ArgumentParser(description="Training steps by what of the language model is trained.")
    add_model_arguments(parser)
    add_arguments(parser, rounds=5)
    args = parser.parse_args(arguments)
    device, precision = chosen_device(args)
    report([compare(args.size, device, precision, args.rounds, args.batch)], args.json)


def compare(
    name: str, device: torch.device, precision: Precision, rounds: int, batch: int | None = None
) -> Results:
    """Measure all `WAYS` for a model of `SIZES`; the one in 4 bits where bitsandbytes is installed."""
    size = SIZES[name]
    batch = batch or (size.cuda_batch if device.type == "cuda" else size.batch)
    data = Data.draw(size, batch, device)
    ways = []
    for title, settings in WAYS.items():
        if "llm_precision" in settings and find_spec("bitsandbytes") is None:
            continue
        model = build_ours(size, device, precision, **settings).train()
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        label = f"{title}: {trained / 1e6:,.2f} M trained, weights {weights / 2**20:,.0f} MiB"
        ways.append(Way(label, training(model, data, precision), len(data), data.ids.numel()))
    return measure(f"Training step, {name}, by what is trained", ways, device, precision, rounds)


def training(model: MiniGPT4, data: Data, precision: Precision) -> Callable[[], None]:
    """Return one optimizer step of a model."""
    samples = data.samples()
    return step(lambda: model(samples)["loss"], model, precision)


if __name__ == "__main__":
    main()
