"""The parts of a training step around the model's own. Only `StepLog.fetch` waits for the device."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xraygpt.common.dist_utils import (
    all_reduce_mean,
    get_world_size,
    is_dist_avail_and_initialized,
    whole,
)
from xraygpt.common.errors import NonFiniteLossError
from xraygpt.common.logger import MetricsWriter, SmoothedValue
from xraygpt.datasets.batch import Batch
from xraygpt.tasks.timing import IntervalTimer

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
    """How many things a loss is a mean over: text tokens if the model says so, else images.

    Scalars in float32, on the device.
    """

    own: Tensor
    """Of this process."""
    mean: Tensor
    """Mean over all processes."""
    are_tokens: bool


class Accumulation:
    """Weights of the batches of one optimizer step, such that each of their targets counts the same.

    The gradient wanted is that of one batch with all targets of the step, of all processes. How many these
    are is known after the last batch only: until then a batch's weight refers to the number of the first
    one, and `correct` multiplies the sum by what it lacks. The weight is 1 for a step of one batch in one
    process, and the correction is 1 where all batches have as many targets.

    Numbers of targets stay on the device, in float64: Python's own arithmetic would give the same bits.

    Args:
        batches: number of batches of the step in each process.
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.means: list[Tensor] = []

    def weight(self, targets: Targets) -> Tensor:
        """Return the factor of the next batch's loss; DistributedDataParallel averages over processes."""
        self.means.append(targets.mean.double())
        return (targets.own.double() / (self.means[0] * self.batches)).float()

    def correct(self, parameters: Iterable[nn.Parameter]) -> None:
        """Multiply the accumulated gradients by what is known after the last batch."""
        if self.batches == 1:
            return
        factor = self.means[0] * self.batches / torch.stack(self.means).sum()
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)


def update(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    grad_clip: float | None,
    accumulation: Accumulation,
) -> dict[str, Tensor]:
    """Make one optimizer step; return the gradient's norm before clipping as `grad_norm`, if clipping.

    With a scaler a step whose gradient is not finite is left out, and the scale lowered; to know it, the
    scaler waits for the device.
    """
    numbers: dict[str, Tensor] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    accumulation.correct(parameters)
    if grad_clip is not None:
        if scaler is not None:
            scaler.unscale_(optimizer)
        numbers["grad_norm"] = whole(nn.utils.clip_grad_norm_(parameters, grad_clip))
    if scaler is not None:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return numbers


def mean_losses(outputs: dict[str, Tensor], samples: Batch) -> tuple[Targets, dict[str, Tensor]]:
    """Return what this batch's loss is a mean over, and the losses of all processes together.

    A model whose loss is a mean over text tokens says over how many in ``"num_targets"``. The others' are
    means over images, or over pairs of them: contrast and matching compare the pairs of one batch.
    """
    parts = {key: value.detach() for key, value in outputs.items() if key.startswith("loss")}
    values = torch.stack([value.float().mean() for value in parts.values()])
    number: Tensor | int = outputs.get("num_targets", len(samples["image_id"]))
    if isinstance(number, Tensor):
        own = number.detach().to(values, non_blocking=True)
    else:
        own = torch.full((), number, dtype=values.dtype, device=values.device)
    mean = own
    if is_dist_avail_and_initialized():
        sums = all_reduce_mean(torch.cat([values * own, own[None]]))
        values, mean = sums[:-1] / sums[-1], sums[-1]
    return Targets(own, mean, "num_targets" in outputs), dict(zip(parts, values, strict=True))


def gather(items: list[T]) -> list[T]:
    """Return the items of all processes, those of process 0 first."""
    if not is_dist_avail_and_initialized():
        return items
    parts: list[list[T]] = [[] for _ in range(get_world_size())]
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


@dataclass
class Step:
    """A training step whose numbers are still on the device, as scalars in float32."""

    number: int
    """Batches seen, this one included."""
    epoch: int
    lr: float
    seconds: float
    """From the beginning of the epoch until all its work was in the device's queue."""
    image_ids: list[str]
    targets: Targets
    own_loss: Tensor
    """Of this process alone."""
    numbers: dict[str, Tensor]
    """Losses of all processes together, and maybe ``grad_norm``."""


class StepLog:
    """The numbers of an epoch's steps: left on the device, and from time to time fetched all at once.

    Fetching is what finds a loss or a gradient that is not finite. The optimizer has used it by then, and
    the weights are worthless: the training ends there, and no checkpoint may be written without `fetch`.

    As a context manager it fetches what is left when the block fails, since a step that no one has looked at
    yet may be the cause. As text: mean losses over the last `window` steps fetched.

    Args:
        window: steps between two lines of the log.
        timer: told how many tokens there were.
        writer: gets a line for each step.
        scaled: the loss is scaled, so that a gradient may overflow: its step was left out.
    """

    def __init__(
        self, window: int, timer: IntervalTimer, writer: MetricsWriter | None = None, scaled: bool = False
    ) -> None:
        self.window = window
        self.timer = timer
        self.writer = writer
        self.scaled = scaled
        self.meters: dict[str, SmoothedValue] = {}
        self._steps: list[Step] = []
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with suppress(RuntimeError):  # of a device that has failed: the first error says it better
                self.fetch(alone=True)

    def add(
        self,
        number: int,
        epoch: int,
        lr: float,
        samples: Batch,
        outputs: dict[str, Tensor],
        targets: Targets,
        numbers: dict[str, Tensor],
    ) -> None:
        """Take note of the end of a step, without looking at its numbers; see `Step`."""
        seconds, ids = round(time.perf_counter() - self._started, 4), samples["image_id"]
        own_loss = outputs["loss"].detach().float().mean()
        numbers = {name: value.float() for name, value in numbers.items()}
        self._steps.append(Step(number, epoch, lr, seconds, ids, targets, own_loss, numbers))
        positions, padded = (int(outputs.get(name, 0)) for name in ("num_positions", "num_padded"))
        self.timer.end_step(len(ids), positions, padded)

    def fetch(self, alone: bool = False) -> None:
        """Wait for the steps noted since the last time; check their numbers and write their lines.

        Args:
            alone: other processes may not be at this place, and are not asked for their image ids.

        Raises:
            NonFiniteLossError: a loss of any process, or the norm of a gradient, is NaN or infinite; the
                first such step is named, and those before it are written. In every process.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        scalars: list[Tensor] = []
        for step in steps:
            scalars += [step.own_loss, step.targets.mean, *step.numbers.values()]
        fetched = iter(torch.stack(scalars).tolist())
        for step in steps:
            own_loss, mean_targets = next(fetched), next(fetched)
            values = {name: next(fetched) for name in step.numbers}
            self._check(step, own_loss, values["loss"], values.get("grad_norm", 0.0), alone)
            for name in filter(lambda name: name.startswith("loss"), values):
                self.meters.setdefault(name, SmoothedValue(self.window)).update(values[name])
            if step.targets.are_tokens:
                self.timer.count_tokens(mean_targets * get_world_size())
            if self.writer is not None:
                record = {"event": "train", "step": step.number, "epoch": step.epoch, **values}
                self.writer.write(record | {"lr": step.lr, "seconds": step.seconds})

    def _check(self, step: Step, own_loss: float, loss: float, norm: float, alone: bool) -> None:
        where = f"at step {step.number}; image ids of the batch:"
        if not math.isfinite(loss):
            own = [] if math.isfinite(own_loss) else step.image_ids
            ids = own if alone else gather(own)
            if ids or not alone:  # else another process tells it
                raise NonFiniteLossError(f"the loss is {loss} {where} {', '.join(ids)}. {ADVICE}")
        if not (self.scaled or math.isfinite(norm)):
            names = ", ".join(step.image_ids)
            raise NonFiniteLossError(f"the norm of the gradient is {norm} {where} {names}. {ADVICE}")

    def means(self) -> dict[str, float]:
        """Return the means over all steps fetched."""
        return {key: meter.global_avg for key, meter in self.meters.items()}

    def __str__(self) -> str:
        return "  ".join(f"{key} {meter.avg:.4f}" for key, meter in self.meters.items())
