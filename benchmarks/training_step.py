"""How fast a training step is: ours against transformers' BLIP-2 and against the way the reference trains.

    python -m benchmarks.training_step --size small

One step is forward, backward and AdamW with only the projection trained, as in the released recipe:

- transformers: `Blip2ForConditionalGeneration` with the same weights and the same batch;
- the reference's way: the same network in batches of 3, with attention written out, fp16 autocast with a
  scaler on a GPU, logits for every position, and the loss read back after every step;
- ours, and ours with what the frozen parts make of the images at hand, as `run.feature_cache` gives it.

The losses of all are compared before anything is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import Results, Way, add_arguments, chosen_device, measure, report
from benchmarks.report_models import (
    REFERENCE_BATCH,
    ROUGH,
    SIZES,
    TOLERANCE,
    Data,
    build_ours,
    build_theirs,
    lowest,
    reference_dtype,
)
from benchmarks.report_models import add_arguments as add_model_arguments
from xraygpt.common.optims import build_optimizer
from xraygpt.common.precision import Precision
from xraygpt.common.run_config import RunConfig
from xraygpt.models import MiniGPT4

LEARNING_RATE = 1e-6


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of one size."""
    parser = argparse.ArgumentParser(description="Training steps: ours, transformers', the reference's way.")
    add_model_arguments(parser)
    parser.add_argument("--target-tokens", type=int, help="tokens of each report (default: 64)")
    add_arguments(parser, rounds=9)
    args = parser.parse_args(arguments)
    device, precision = chosen_device(args)
    results = compare(args.size, device, precision, args.rounds, args.batch, args.target_tokens)
    report([results], args.json)


def compare(
    name: str,
    device: torch.device,
    precision: Precision,
    rounds: int,
    batch: int | None = None,
    target_tokens: int | None = None,
) -> Results:
    """Measure the three ways for a model of `SIZES`.

    Raises:
        AssertionError: they do not compute the same loss.
    """
    size = SIZES[name]
    batch = batch or (size.cuda_batch if device.type == "cuda" else size.batch)
    data = Data.draw(size, batch, device, target_tokens)
    few = data.part(0, REFERENCE_BATCH)
    ours = build_ours(size, device, precision)
    theirs = build_theirs(ours, "sdpa")
    reference = build_theirs(ours, "eager", reference_dtype(device))
    inputs = data.inputs(ours, labels=True)
    few_inputs = few.inputs(ours, labels=True)
    reference_precision = Precision(reference_dtype(device) or torch.float32, device.type)

    def their_loss() -> Tensor:
        loss: Tensor = theirs(**inputs).loss
        return loss

    def reference_loss() -> Tensor:
        loss: Tensor = reference(**few_inputs).loss
        return loss

    with torch.no_grad():
        with precision.autocast():
            own, other = ours(data.samples())["loss"], their_loss()
            own_few = ours(few.samples())["loss"]
        with reference_precision.autocast():
            third = reference_loss()
    check_close("transformers", other, own, precision.dtype)
    check_close("the reference's way", third, own_few, lowest(precision, reference_precision))
    scaler = torch.amp.GradScaler(device.type) if reference_precision.needs_scaler else None
    ours.train()
    tokens = data.ids.shape[1]
    ways = [
        Way("transformers", step(their_loss, theirs, precision), len(data), data.ids.numel()),
        Way(
            "the reference's way",
            step(reference_loss, reference, reference_precision, scaler, read_back=True),
            len(few),
            few.ids.numel(),
        ),
        *our_ways(ours, data, precision),
    ]
    parameters = sum(parameter.numel() for parameter in ours.parameters())
    title = f"Training step, {name} ({parameters / 1e6:,.0f} M parameters), {tokens} target tokens an image"
    return measure(title, ways, device, precision, rounds)


def our_ways(ours: MiniGPT4, data: Data, precision: Precision) -> list[Way]:
    """Return our step, and the same with the output of the frozen parts in place of the images.

    Raises:
        AssertionError: the two do not compute the same loss.
    """
    samples = data.samples()
    cached: dict[str, Any] = {key: value for key, value in samples.items() if key != "image"}
    with torch.no_grad(), precision.autocast():
        cached["features"] = ours.frozen_part().encode(data.images)
        check_close("the cache", ours(cached)["loss"], ours(samples)["loss"], precision.dtype)

    def way(name: str, batch: dict[str, Any]) -> Way:
        return Way(name, step(lambda: ours(batch)["loss"], ours, precision), len(data), data.ids.numel())

    return [way("ours", samples), way("ours, features cached", cached)]


def step(
    loss_of: Callable[[], Tensor],
    model: nn.Module,
    precision: Precision,
    scaler: torch.amp.GradScaler | None = None,
    *,
    read_back: bool = False,
    rate: float = LEARNING_RATE,
) -> Callable[[], None]:
    """Return one optimizer step over what is trained of a model.

    Args:
        read_back: make a Python number of the loss, as the reference does for its log.
        rate: learning rate.
    """
    optimizer = build_optimizer(model, RunConfig(init_lr=rate, min_lr=0.0))

    def run() -> None:
        with precision.autocast():
            loss = loss_of()
        if scaler is not None:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if read_back:
            loss.item()

    return run


def check_close(name: str, loss: Tensor, own: Tensor, dtype: torch.dtype) -> None:
    """Raise AssertionError unless a loss is ours but for rounding in this number format."""
    difference = float((loss.float() - own.float()).abs() / own.float().abs())
    assert difference <= TOLERANCE.get(dtype, ROUGH), (
        f"{name} computes a loss of {float(loss):.6g} and we {float(own):.6g}: not the same network"
    )


if __name__ == "__main__":
    main()
