"""What all tasks share: building model and data, the one training loop, the one evaluation loop."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from xraygpt.common.config import Config
from xraygpt.common.dist_utils import get_rank
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.common.logger import MetricsWriter, progress
from xraygpt.common.paths import require_all
from xraygpt.common.precision import Precision, resolve_device
from xraygpt.common.registry import LRScheduler, registry
from xraygpt.common.tables import normalise_split
from xraygpt.datasets.batch import Batch, DeviceCopies, to_device
from xraygpt.datasets.builders import BaseDatasetBuilder
from xraygpt.datasets.datasets.base_dataset import ReportDataset
from xraygpt.datasets.seeding import seed_everything
from xraygpt.datasets.stream import EvalStream
from xraygpt.models.base_model import BaseModel
from xraygpt.models.vision_tower import preprocessing_for
from xraygpt.tasks.steps import (
    Accumulation,
    StepLog,
    accumulation_group,
    gather,
    gradient_sync,
    mean_losses,
    update,
)
from xraygpt.tasks.timing import IntervalTimer

logger = logging.getLogger(__name__)

Splits = dict[str, ReportDataset]


def datasets_of(datasets: Mapping[str, Splits], split: str) -> list[ReportDataset]:
    """Return the data sets that have a split.

    Raises:
        DataError: none has it.
    """
    wanted = normalise_split(split)
    found = [splits[wanted] for splits in datasets.values() if wanted in splits]
    if not found:
        there = "; ".join(f"{name} has {', '.join(splits)}" for name, splits in datasets.items())
        raise DataError(f"no data set has the split '{split}' ({there or 'no data set is configured'})")
    return found


@dataclass
class EvalContext:
    """Where and how an evaluation runs."""

    device: torch.device
    precision: Precision
    seed: int
    output_dir: Path
    split: str = ""
    """Name of the split as the configuration has it."""
    event: Literal["valid", "test"] = "valid"
    """Whether the evaluation is the validation after an epoch or the one that the run is made for."""
    gather: bool = True
    """The data is divided between the processes, so that the results have to be brought together."""


@dataclass
class TrainContext:
    """What a training loop works with, from the first epoch to the last."""

    model: nn.Module
    """As it is trained: wrapped when there are several processes."""
    optimizer: torch.optim.Optimizer
    lr_scheduler: LRScheduler
    device: torch.device
    precision: Precision
    seed: int
    iters_per_epoch: int
    """Batches in an epoch."""
    scaler: torch.amp.GradScaler | None = None
    accum_grad_iters: int = 1
    """Batches that make one optimizer step."""
    log_freq: int = 50
    """Batches after which their numbers are fetched from the device."""
    grad_clip: float | None = None
    """Largest norm of the gradient of all parameters together."""
    writer: MetricsWriter | None = None
    """Gets a line for each step."""
    timer: IntervalTimer | None = None
    """Told what the time is spent on; None for one that only this training knows."""
    on_update: Callable[[int, int, Callable[[], None]], None] = field(
        default=lambda before, after, check: None
    )
    """Called after each optimizer step with the numbers of batches seen before and after its batches; the
    place to save a checkpoint, but not before calling the third argument: it raises NonFiniteLossError if a
    loss or gradient so far was not finite, which is else found every `log_freq` batches."""


@dataclass
class TaskConfig:
    """The keys of the section ``run`` that only this task reads: none."""


class BaseTask:
    """A task; subclasses say what an evaluation is, and whatever else they do differently.

    Args:
        cfg: of the run; None for a task used by hand.
    """

    config_class: ClassVar[type] = TaskConfig
    """Dataclass of the keys of ``run`` that only this task reads; `Config.task_cfg` is an instance."""

    def __init__(self, cfg: Config | None = None, **kwargs: Any) -> None:
        self.outputs: dict[str, Tensor] = {}
        """All that the model returned at the latest `train_step`: ``loss`` and others beginning with it;
        ``num_targets``, how many tokens these are means over; on the CPU ``num_positions`` of the rows it
        made, and how many are ``num_padded``. Only ``loss`` is required."""
        finds_size = type(self).largest_eval_batch is not BaseTask.largest_eval_batch
        if cfg is not None and cfg.run_cfg.batch_size_eval == "auto" and not finds_size:
            raise ConfigError(
                "run.batch_size_eval: auto is for tasks that generate reports; give a number for "
                f"run.task {cfg.run_cfg.task}"
            )

    @classmethod
    def setup_task(cls, **kwargs: Any) -> Self:
        """Return the task for a configuration (`cfg`)."""
        return cls(**kwargs)

    # Building

    def build_model(self, cfg: Config) -> BaseModel:
        """Return the model that the configuration describes, its weights loaded, on this process's device."""
        device = resolve_device(cfg.run_cfg.device, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
        return registry.get_model_class(cfg.arch, BaseModel).from_config(cfg.model_cfg, device=device)

    def build_datasets(self, cfg: Config) -> dict[str, Splits]:
        """Return {name of the data set: {split: data set}}.

        Raises:
            MissingFileError: naming all that is missing of all data sets.
        """
        datasets: dict[str, Splits] = {}
        preprocessing = preprocessing_for(cfg.model_cfg)

        def build(name: str) -> None:
            builder = registry.get_builder_class(name, BaseDatasetBuilder)
            built = builder(cfg.datasets_cfg[name], preprocessing).build_datasets()
            datasets[name] = {normalise_split(split): data for split, data in built.items()}
            sizes = ", ".join(f"{split} {data.extent()}" for split, data in datasets[name].items())
            logger.info("data set %s: %s", name, sizes)

        require_all(partial(build, name) for name in cfg.datasets_cfg)
        return datasets

    # Training

    def train_step(self, model: nn.Module, samples: Batch) -> Tensor:
        """Return the loss of one batch, a scalar."""
        self.outputs = model(samples)
        return self.outputs["loss"]

    def train_epoch(
        self, epoch: int, data_loader: Iterator[Batch], context: TrainContext, start_iters: int = 0
    ) -> dict[str, float]:
        """Train from batch `start_iters` of the epoch to its end; return the mean losses of these batches."""
        return self._train_inner_loop(epoch, data_loader, context, start_iters)

    def _train_inner_loop(
        self, epoch: int, data_loader: Iterator[Batch], context: TrainContext, start_iters: int
    ) -> dict[str, float]:
        """The one loop over training batches.

        ``accum_grad_iters`` batches make one optimizer step, whose gradient is that of their mean loss; each
        of their targets, such as text tokens, counts the same (`Accumulation`). The last step of an epoch
        takes what is left, so that no gradient reaches into the next epoch.

        No step waits for the device: what it computes is fetched every ``log_freq`` batches and at the end
        of the epoch (`StepLog`). Until then the optimizer may go on with a loss that is not finite; weights
        like that reach neither a checkpoint nor a validation, since the error comes first.
        """
        model, optimizer, scaler = context.model, context.optimizer, context.scaler
        model.train()
        optimizer.zero_grad(set_to_none=True)
        timer = context.timer or IntervalTimer(context.device)
        log = StepLog(context.log_freq, timer, context.writer, scaled=scaler is not None)
        copies = DeviceCopies(context.device)
        first = epoch * context.iters_per_epoch
        iterations = progress(
            range(start_iters, context.iters_per_epoch),
            total=context.iters_per_epoch,
            desc=f"epoch {epoch}",
            status=lambda: f"lr {optimizer.param_groups[0]['lr']:.3e}  {log}  {timer}",
            every=context.log_freq,
            first=start_iters,
        )
        with log:
            for i in iterations:
                group = accumulation_group(i, context.accum_grad_iters, context.iters_per_epoch)
                if i in (group[0], start_iters):
                    accumulation = Accumulation(len(group))
                with timer.phase("data"):
                    batch = next(data_loader)
                with timer.phase("copy"):
                    samples = copies.to_device(batch)
                context.lr_scheduler.step(cur_epoch=epoch, cur_step=i)
                # Whatever the model draws at random (dropout, masks) is a function of step and process.
                seed_everything(context.seed, "step", first + i, get_rank())
                with gradient_sync(model, last=i == group[-1]):
                    with timer.phase("forward"), context.precision.autocast():
                        loss = self.train_step(model=model, samples=samples)
                    targets, losses = mean_losses(self.outputs, samples)
                    scaled = loss * accumulation.weight(targets)
                    with timer.phase("backward"):
                        (scaler.scale(scaled) if scaler is not None else scaled).backward()
                lr, others = optimizer.param_groups[0]["lr"], dict[str, Tensor]()
                if i == group[-1]:
                    with timer.phase("optimizer"):
                        others = update(optimizer, scaler, context.grad_clip, accumulation)
                log.add(first + i + 1, epoch, lr, samples, self.outputs, targets, losses | others)
                if (i + 1) % context.log_freq == 0 or i + 1 == context.iters_per_epoch:
                    log.fetch()
                    timer.end_interval(first + i + 1, epoch)
                if i == group[-1]:
                    context.on_update(first + group[0], first + i + 1, log.fetch)
        return log.means()

    # Evaluation

    def valid_step(self, model: nn.Module, samples: Batch) -> list[dict[str, Any]]:
        """Return one row (plain values) for each sample of the batch."""
        raise NotImplementedError(f"{type(self).__name__} has to say what an evaluation step is.")

    def largest_eval_batch(
        self, model: BaseModel, sample: Batch, samples: int, *, context: EvalContext
    ) -> int:
        """Return what ``run.batch_size_eval: auto`` stands for, the same in all processes.

        Args:
            sample: a batch of one.
            samples: how many there are.
        """
        raise NotImplementedError(f"{type(self).__name__} has to say how many samples fit into memory.")

    def before_evaluation(
        self, model: nn.Module, dataset: ReportDataset | None = None, **kwargs: Any
    ) -> None:
        """Called before a split is evaluated."""
        prepare: Any = model.before_evaluation
        prepare(dataset=dataset, **kwargs)

    def evaluate_split(
        self,
        model: BaseModel,
        stream: EvalStream,
        load: Callable[[EvalStream], Iterable[Batch]],
        *,
        context: EvalContext,
    ) -> list[dict[str, Any]]:
        """Return the rows of one split of one data set; `load` turns a stream into its batches."""
        self.before_evaluation(model=model, dataset=stream.dataset)
        return self.evaluation(model, load(stream), context=context)

    def evaluation(
        self, model: nn.Module, data_loader: Iterable[Batch], *, context: EvalContext
    ) -> list[dict[str, Any]]:
        """Return the rows of all samples, of all processes, in the order of the data set."""
        batches = list(self.evaluated_batches(model, data_loader, context))
        if context.gather:
            batches = sorted(gather(batches), key=lambda batch: batch[0])
        return [row for _, rows in batches for row in rows]

    @torch.no_grad()
    def evaluated_batches(
        self, model: nn.Module, data_loader: Iterable[Batch], context: EvalContext
    ) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yield the number of each batch of this process, and its rows."""
        model.eval()
        for position, batch in enumerate(progress(data_loader, desc="evaluation")):
            samples = to_device(batch, context.device)
            number = samples.get("number", position)
            # Whatever is drawn at random is a function of the batch, whichever process has it.
            seed_everything(context.seed, "evaluation", number)
            with context.precision.autocast():
                rows = self.valid_step(model=model, samples=samples)
            yield number, rows

    def after_evaluation(
        self, val_result: list[dict[str, Any]], split_name: str, epoch: int | str, *, context: EvalContext
    ) -> dict[str, Any]:
        """Turn the rows into metrics; ``"agg_metrics"`` is the one that the best checkpoint has most of."""
        raise NotImplementedError(f"{type(self).__name__} has to say what an evaluation gives.")

    def after_run(
        self,
        metrics: dict[str, dict[str, Any]],
        datasets: dict[str, Splits],
        *,
        output_dir: Path,
        elapsed: Callable[[], float],
    ) -> dict[str, dict[str, Any]]:
        """Leave behind what the whole run gives; called in process 0 once all test splits are scored.

        Args:
            metrics: of each test split, in their order.
            elapsed: seconds since the start of the program.

        Returns:
            The metrics, with whatever is known only now.
        """
        return metrics
