"""How fast reports are written: ours against transformers' BLIP-2 and against one image after the other.

    python -m benchmarks.generation --size small

All write the same number of tokens for the same images, greedily, with a cache:

- transformers: `Blip2ForConditionalGeneration` with the same weights, all images in one batch;
- the reference's way: the same network with attention written out, one image after the other;
- ours, all images in one batch;
- ours with a cache of fixed size, as `run.compile` has it on a GPU, where transformers compiles the model.

Before anything is timed, the other two are asked for the score of each token that we wrote: it has to be the
likeliest one there too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Blip2ForConditionalGeneration

from benchmarks.measuring import Results, Way, add_arguments, chosen_device, measure, report
from benchmarks.report_models import (
    END,
    ROUGH,
    SIZES,
    SPECIAL,
    TOLERANCE,
    Data,
    build_ours,
    build_theirs,
    lowest,
    reference_dtype,
)
from benchmarks.report_models import add_arguments as add_model_arguments
from xraygpt.common.generation import GenerationConfig
from xraygpt.common.precision import Precision
from xraygpt.models.mini_gpt4 import MiniGPT4


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of one size."""
    parser = argparse.ArgumentParser(
        description="Generation: ours, transformers', one image after the other."
    )
    add_model_arguments(parser)
    parser.add_argument("--new-tokens", type=int, default=48, help="tokens of each report (default: 48)")
    parser.add_argument(
        "--alone", type=int, default=4, help="images written one after the other (default: 4, or the batch)"
    )
    add_arguments(parser, rounds=5)
    args = parser.parse_args(arguments)
    device, precision = chosen_device(args)
    found = compare(args.size, device, precision, args.rounds, args.batch, args.new_tokens, args.alone)
    report([found], args.json)


def compare(
    name: str,
    device: torch.device,
    precision: Precision,
    rounds: int,
    batch: int | None = None,
    new_tokens: int = 48,
    alone: int = 4,
) -> Results:
    """Measure the ways for a model of `SIZES`.

    Args:
        alone: how many of the images, at most, are written one after the other.

    Raises:
        AssertionError: they do not write the same.
    """
    size = SIZES[name]
    batch = batch or (size.cuda_batch if device.type == "cuda" else size.batch)
    data = Data.draw(size, batch, device)
    ours = build_ours(size, device, precision)
    theirs = build_theirs(ours, "sdpa")
    reference = build_theirs(ours, "eager", reference_dtype(device))
    reference_precision = Precision(reference_dtype(device) or torch.float32, device.type)
    inputs = data.inputs(ours, labels=False)
    singles = [data.part(n, 1).inputs(ours, labels=False) for n in range(min(alone, batch))]

    def our_way() -> Tensor:
        with precision.autocast():
            return write(ours, data, new_tokens)

    def their_way() -> Tensor:
        with precision.autocast():
            return write_theirs(theirs, inputs, new_tokens)

    def reference_way() -> Tensor:
        with reference_precision.autocast():
            return torch.cat([write_theirs(reference, single, new_tokens) for single in singles])

    def fixed_way() -> Tensor:
        ours.static_cache = True
        try:
            return our_way()
        finally:
            ours.static_cache = False

    own = our_way()
    assert own.shape[1] == new_tokens, f"all reports ended after {own.shape[1]} of {new_tokens} tokens"
    with precision.autocast():
        check_same("transformers", theirs, inputs, own, precision.dtype)
    with reference_precision.autocast():
        few = data.part(0, len(singles)).inputs(ours, labels=False)
        check_same(
            "the reference's way", reference, few, own[: len(singles)], lowest(precision, reference_precision)
        )
    ways = [
        Way("transformers", their_way, len(data), own.numel()),
        Way("the reference's way", reference_way, len(singles), len(singles) * new_tokens),
        Way("ours", our_way, len(data), own.numel()),
        Way("ours, fixed cache", fixed_way, len(data), own.numel()),
    ]
    parameters = sum(parameter.numel() for parameter in ours.parameters())
    title = f"Generation, {name} ({parameters / 1e6:,.0f} M parameters), {new_tokens} tokens an image"
    return measure(title, ways, device, precision, rounds)


@torch.no_grad()
def write(model: MiniGPT4, data: Data, new_tokens: int) -> Tensor:
    """Return the ids (B, n) that our model writes; no end is allowed before the last of them."""
    images = model.encode_img(data.images)[0]
    embeds, mask = model.embed_prompt([""] * len(data), images)
    settings = GenerationConfig(max_new_tokens=new_tokens, min_length=new_tokens)
    return model.complete(embeds, mask, settings, model.stop_strings)[1]


def write_theirs(model: Blip2ForConditionalGeneration, inputs: dict[str, Tensor], new_tokens: int) -> Tensor:
    """Return the ids (B, n) that transformers' model writes."""
    ids: Tensor = model.generate(
        **inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False
    )
    return ids[:, -new_tokens:]


@torch.no_grad()
def check_same(
    name: str,
    model: Blip2ForConditionalGeneration,
    inputs: dict[str, Tensor],
    own: Tensor,
    dtype: torch.dtype,
) -> None:
    """Raise AssertionError unless each token that we wrote is the likeliest one there, but for rounding.

    The texts themselves may differ: after one token that was as likely as another, all others do.
    """
    # A text in which the token of the image was written is nothing that their model could read.
    readable = (own != model.config.image_token_index).all(dim=1)
    own, images = own[readable], inputs["pixel_values"][readable]
    ids = torch.cat([inputs["input_ids"][readable], own], dim=1)
    logits = model(pixel_values=images, input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    logits = logits[:, -own.shape[1] - 1 : -1].float()
    largest = float(logits.abs().max())
    ends = model.generation_config.eos_token_id
    logits[..., ends] = -torch.inf  # no end is allowed
    chosen = logits.gather(-1, own.unsqueeze(-1)).squeeze(-1)
    # Only we stop at the end symbol, and pad such a row while others are written.
    writing = (own == SPECIAL.index(END)).cumsum(dim=1) == 0
    difference = float((logits.amax(-1) - chosen)[writing].max()) / largest
    assert difference <= TOLERANCE.get(dtype, ROUGH), (
        f"{name} would not write what we wrote: a score differs by {difference:.1e} of the largest"
    )


if __name__ == "__main__":
    main()
