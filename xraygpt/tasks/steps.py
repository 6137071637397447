"""The parts of a training step around the model's own."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xraygpt.common.dist_utils import all_reduce_mean, get_world_size, is_dist_avail_and_initialized
from xraygpt.common.errors import NonFiniteLossError
from xraygpt.common.logger import SmoothedValue
from xraygpt.datasets.batch import Batch

T = TypeVar("T")

ADVICE = (
    "Look at these samples, lower run.init_lr, set run.grad_clip, or train in run.precision bf16 or fp32."
)


def gradient_sync(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Exchange gradients between processes only with the last batch before an optimizer step."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def accumulation_group(i: int, accum_grad_iters: int, iters_per_epoch: int) -> range:
    """Return the iterations whose gradients are added up with that of iteration `i`.

    Groups do not reach over the end of an epoch; the last one takes what is left.
    """
    start = i - i % accum_grad_iters
    return range(start, min(start + accum_grad_iters, iters_per_epoch))


def update(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    grad_clip: float | None,
    samples: Batch,
    step: int,
) -> dict[str, float]:
    """Make one optimizer step; return the gradient's norm before clipping as `grad_norm`, if clipping.

    Raises:
        NonFiniteLossError: the norm is NaN or infinite. With a scaler this is no error: it leaves the step
            out and lowers its scale.
    """
    record: dict[str, float] = {}
    if grad_clip is not None:
        if scaler is not None:
            scaler.unscale_(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = record["grad_norm"] = float(nn.utils.clip_grad_norm_(parameters, grad_clip))
        if scaler is None and not math.isfinite(norm):
            raise NonFiniteLossError(
                f"the norm of the gradient is {norm} at step {step}; image ids of the batch: "
                f"{', '.join(samples['image_id'])}. {ADVICE}"
            )
    if scaler is not None:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return record


def checked_losses(
    outputs: dict[str, Tensor], samples: Batch, step: int
) -> tuple[Tensor | float, dict[str, float]]:
    """Return this process's weight among all, and the losses of all together, as numbers.

    A loss is a mean over something, text tokens mostly, of which processes have different numbers; a model
    says how many in ``"num_targets"``. Weighted by it, the mean over processes (which is what
    DistributedDataParallel makes of gradients) is the loss of all their samples in one batch. The weight is
    1 without ``"num_targets"`` or other processes.

    Raises:
        NonFiniteLossError: in every process, if the loss of any of them is NaN or infinite.
    """
    parts = {key: value.detach() for key, value in outputs.items() if key.startswith("loss")}
    weight: Tensor | float = 1.0
    values = torch.stack([value.float().mean() for value in parts.values()])
    if is_dist_avail_and_initialized():
        if "num_targets" in outputs:
            own = outputs["num_targets"].detach().float()
            weight = own / all_reduce_mean(own)
        values = all_reduce_mean(values * weight)
    losses = dict(zip(parts, values.tolist(), strict=True))
    if not math.isfinite(losses["loss"]):
        finite = bool(parts["loss"].isfinite().all())
        culprits = gather([] if finite else [{"image_ids": samples["image_id"]}])
        ids = ", ".join(image_id for row in culprits for image_id in row["image_ids"])
        raise NonFiniteLossError(
            f"the loss is {losses['loss']} at step {step}; image ids of the batch: {ids}. {ADVICE}"
        )
    return weight, losses


def gather(items: list[T]) -> list[T]:
    """Return the items of all processes, those of process 0 first."""
    if not is_dist_avail_and_initialized():
        return items
    parts: list[list[T]] = [[] for _ in range(get_world_size())]
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


class Losses:
    """The losses of an epoch; as text, their means over the last `window` steps."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.meters: dict[str, SmoothedValue] = {}

    def add(self, losses: dict[str, float]) -> None:
        """Take note of one step."""
        for key, value in losses.items():
            self.meters.setdefault(key, SmoothedValue(self.window)).update(value)

    def means(self) -> dict[str, float]:
        """Return the means over all steps."""
        return {key: meter.global_avg for key, meter in self.meters.items()}

    def __str__(self) -> str:
        return "  ".join(f"{key} {meter.avg:.4f}" for key, meter in self.meters.items())
