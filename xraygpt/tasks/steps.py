"""The parts of a training step around the model's own."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeVar

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


class Targets(NamedTuple):
    """How many things a loss is a mean over: text tokens if the model says so, else images."""

    own: float
    """Of this process."""
    mean: float
    """Mean over all processes."""


class Accumulation:
    """Weights of the batches of one optimizer step, such that each of their targets counts the same.

    The gradient wanted is that of one batch with all targets of the step, of all processes. How many these
    are is known after the last batch only: until then a batch's weight refers to the number of the first
    one, and `correction` is what the sum has to be multiplied by. Both are 1 for a step of one batch in one
    process, and the correction is 1 where all batches have as many targets.

    Args:
        batches: number of batches of the step in each process.
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.means: list[float] = []

    def weight(self, targets: Targets) -> float:
        """Return the factor of the next batch's loss; DistributedDataParallel averages over processes."""
        self.means.append(targets.mean)
        return targets.own / (self.means[0] * self.batches)

    @property
    def correction(self) -> float:
        """The factor of the accumulated gradients."""
        return self.means[0] * self.batches / sum(self.means)


def update(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    grad_clip: float | None,
    correction: float,
    samples: Batch,
    step: int,
) -> dict[str, float]:
    """Make one optimizer step; return the gradient's norm before clipping as `grad_norm`, if clipping.

    Args:
        correction: what gradients are multiplied by first, see `Accumulation`.

    Raises:
        NonFiniteLossError: the norm is NaN or infinite. With a scaler this is no error: it leaves the step
            out and lowers its scale.
    """
    record: dict[str, float] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if correction != 1.0:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(correction)
    if grad_clip is not None:
        if scaler is not None:
            scaler.unscale_(optimizer)
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


def checked_losses(outputs: dict[str, Tensor], samples: Batch, step: int) -> tuple[Targets, dict[str, float]]:
    """Return what this batch's loss is a mean over, and the losses of all processes together, as numbers.

    A model whose loss is a mean over text tokens says over how many in ``"num_targets"``. The others' are
    means over images, or over pairs of them: contrast and matching compare the pairs of one batch.

    Raises:
        NonFiniteLossError: in every process, if the loss of any of them is NaN or infinite.
    """
    parts = {key: value.detach() for key, value in outputs.items() if key.startswith("loss")}
    values = torch.stack([value.float().mean() for value in parts.values()])
    own = torch.as_tensor(outputs.get("num_targets", len(samples["image_id"])), device=values.device).float()
    if is_dist_avail_and_initialized():
        *sums, mean = all_reduce_mean(torch.cat([values * own, own[None]]))
        numbers = (torch.stack(sums) / mean).tolist()
    else:
        numbers, mean = values.tolist(), own
    losses = dict(zip(parts, numbers, strict=True))
    if not math.isfinite(losses["loss"]):
        finite = bool(parts["loss"].isfinite().all())
        culprits = gather([] if finite else [{"image_ids": samples["image_id"]}])
        ids = ", ".join(image_id for row in culprits for image_id in row["image_ids"])
        raise NonFiniteLossError(
            f"the loss is {losses['loss']} at step {step}; image ids of the batch: {ids}. {ADVICE}"
        )
    return Targets(float(own), float(mean)), losses


def gather(items: list[T]) -> list[T]:
    """Return the items of all processes, those of process 0 first."""
    if not is_dist_avail_and_initialized():
        return items
    parts: list[list[T]] = [[] for _ in range(get_world_size())]
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


class Losses:
    """The losses of an epoch; as text, their means over the last `window` steps, speed and memory.

    Args:
        device: the one whose memory is shown; on the CPU it is that of this process.
    """

    def __init__(self, window: int, device: torch.device) -> None:
        self.window = window
        self.device = device
        self.meters: dict[str, SmoothedValue] = {}
        self._images: deque[int] = deque(maxlen=window)
        self._times = deque([time.perf_counter()], maxlen=window + 1)

    def add(self, losses: dict[str, float], images: int) -> None:
        """Take note of one step, in which each process had so many images."""
        for key, value in losses.items():
            self.meters.setdefault(key, SmoothedValue(self.window)).update(value)
        self._images.append(images * get_world_size())
        self._times.append(time.perf_counter())

    def means(self) -> dict[str, float]:
        """Return the means over all steps."""
        return {key: meter.global_avg for key, meter in self.meters.items()}

    def __str__(self) -> str:
        values = [f"{key} {meter.avg:.4f}" for key, meter in self.meters.items()]
        rate = sum(self._images) / (self._times[-1] - self._times[0])
        if self.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(self.device)
        else:
            unit = 1 if sys.platform == "darwin" else 1024
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return "  ".join([*values, f"{rate:.3g} images/s", f"{memory / 2**30:.1f} GiB"])
