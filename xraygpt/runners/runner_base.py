"""One process of a training or an evaluation, from the configuration to the last checkpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from xraygpt.common.checkpoint import load_weights
from xraygpt.common.config import Config
from xraygpt.common.dist_utils import barrier, init_distributed_mode, is_main_process
from xraygpt.common.errors import DataError, MissingFileError, NonFiniteLossError
from xraygpt.common.logger import METRICS_FILE, MetricsWriter
from xraygpt.common.optims import build_optimizer
from xraygpt.common.precision import Precision, resolve_precision
from xraygpt.common.registry import LRScheduler, registry
from xraygpt.common.run_config import RunConfig
from xraygpt.common.tables import normalise_split
from xraygpt.datasets.batch import Batch
from xraygpt.datasets.datasets.base_dataset import ReportDataset
from xraygpt.datasets.datasets.streamed import StreamedDataset
from xraygpt.datasets.shard_stream import ShardStream
from xraygpt.datasets.stream import BatchLoader, EvalStream, TrainStream, train_stream
from xraygpt.models.base_model import BaseModel
from xraygpt.models.prompted_model import PromptedModel
from xraygpt.runners.compiling import compile_blocks, use_liger
from xraygpt.runners.feature_cache import cached_datasets
from xraygpt.runners.run_folder import (
    BEST,
    LAST,
    SkippedImages,
    epoch_file,
    find_best,
    find_resume_checkpoint,
    remove_unfinished_saves,
    remove_unused_shards,
    set_aside,
    take_over,
)
from xraygpt.runners.sharding import (
    gathered,
    load_shards,
    move_all_but_llm,
    save_shards,
    shard_model,
    unsharded,
)
from xraygpt.runners.trackers import open_trackers
from xraygpt.runners.train_state import (
    SHARDS,
    TrainProgress,
    check_settings,
    load_trainable_state,
    read_training,
    restore_training,
    save_training,
    trainable_state,
)
from xraygpt.tasks.base_task import BaseTask, EvalContext, Splits, TrainContext, datasets_of
from xraygpt.tasks.timing import TRACE_FILE, IntervalTimer, StepTrace, shares

logger = logging.getLogger(__name__)

MAX_COUNTED = 20_000
"""Reports of a split that are looked at for their length; of a larger one, as many at equal distances."""


@registry.register_runner("runner_base")
class RunnerBase:
    """Trains and evaluates one model with one task.

    Args:
        cfg: the `Config`.
        task: says what a step and an evaluation are.
        model: on any device; it is moved to the one configured.
        datasets: {name: {split: data set}}.
        job_id: names the run in its checkpoints.

    Raises:
        ConfigError: the device is not there.
        DataError: a split that is asked for is not there.
    """

    config_class: ClassVar[type[RunConfig]] = RunConfig

    # What is run
    config: Config
    run: RunConfig
    task: BaseTask
    datasets: dict[str, Splits]
    job_id: str
    output_dir: Path

    # Where it runs
    rank: int
    world_size: int
    device: torch.device
    precision: Precision
    sharded: bool

    # The bare model, and the same as it is trained (wrapped when there are several processes that each hold
    # it whole; sharded, it is the same)
    model: BaseModel
    wrapped_model: nn.Module
    prompts: list[str]
    eval_batch_size: int | Literal["auto"]

    # Training; not there when only evaluating
    stream: TrainStream | ShardStream
    iters_per_epoch: int
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    lr_scheduler: LRScheduler
    timer: IntervalTimer

    # How far it is, and what it met
    progress: TrainProgress
    skipped: SkippedImages

    def __init__(
        self, cfg: Config, task: BaseTask, model: BaseModel, datasets: dict[str, Splits], job_id: str
    ) -> None:
        self.config, self.run, self.job_id = cfg, cfg.run_cfg, job_id
        self.task, self.datasets = task, datasets
        self.output_dir = self.setup_output_dir()
        info = init_distributed_mode(self.run)  # joins the other processes unless that is done already
        self.rank, self.world_size, self.device = info.rank, info.world_size, info.device
        self.precision = resolve_precision(self.run.precision, self.run.amp, self.device)
        self.sharded = self.run.parallel.strategy == "fsdp" and not self.run.evaluate
        self.model = self.wrapped_model = model
        if self.sharded:
            move_all_but_llm(model, self.device)
        else:
            model.to(self.device)
        if self.run.kernels == "liger":
            use_liger(self.model, self.device)
        if isinstance(model, PromptedModel):
            model.static_cache = self.run.compile and self.device.type == "cuda"
        # The first one is that of every evaluation; "" is for models without prompts.
        self.prompts = list(model.prompt_list) or [""]
        self.eval_batch_size = self.run.batch_size_eval
        self.progress = TrainProgress()
        self.skipped = SkippedImages(self.output_dir)
        for split in (*self.run.valid_splits, *self.run.test_splits):
            datasets_of(datasets, split)
        if not self.run.evaluate:
            self.stream = self._build_stream()
            self.iters_per_epoch = self.run.iters_per_epoch or self.stream.one_pass()
            self.progress = TrainProgress(iters_per_epoch=self.iters_per_epoch, world_size=self.world_size)
            if self.sharded:
                shard_model(self.model, self.device)
            self.optimizer = build_optimizer(self.model, self.run)
            self.scaler = torch.amp.GradScaler(self.device.type) if self.precision.needs_scaler else None
            self.lr_scheduler = self._build_lr_scheduler()
            if self.run.compile:
                compile_blocks(self.model, self.device)
            if self.world_size > 1 and not self.sharded:
                # init_sync would send the frozen weights, maybe 14 GB that each process has read itself;
                # _start_or_resume sends what is trained. Frozen buffers need no sending either.
                self.wrapped_model = DistributedDataParallel(
                    self.model,
                    device_ids=[self.device] if self.device.type == "cuda" else None,
                    find_unused_parameters=False,
                    broadcast_buffers=False,
                    init_sync=False,
                )

    # Training

    def train(self) -> dict[str, Any]:
        """Train to the end of the last epoch, then score the test splits with the best checkpoint.

        With ``run.evaluate`` only the scoring takes place, with the checkpoint of ``run.resume_ckpt_path`` or
        the model as it is. Returns the metrics of each test split.
        """
        if self.run.evaluate:
            setting = self.run.resume_ckpt_path
            checkpoint = find_resume_checkpoint(setting, self.output_dir)
            if setting and checkpoint is None:
                raise MissingFileError(
                    f"run.resume_ckpt_path is {setting}, and {self.output_dir} holds no checkpoint"
                )
            return self.evaluate(checkpoint, skip_reload=checkpoint is None)
        if is_main_process():
            log_cut_captions(self.model, self.datasets, [*self.run.train_splits, *self.run.valid_splits])
        with closing(self._start_or_resume()) as writer:
            with self._trace() as trace:
                self._train_epochs(writer, trace)
            return self.evaluate(skip_reload=True, writer=writer)

    def _trace(self) -> AbstractContextManager[StepTrace | None]:
        """Return a trace of the steps that ``run.profile_steps`` asks for, of process 0."""
        if self.run.profile_steps is None or not is_main_process():
            return nullcontext()
        return closing(StepTrace(self.output_dir / TRACE_FILE, self.run.profile_steps, self.device))

    def _train_epochs(self, writer: MetricsWriter, trace: StepTrace | None) -> None:
        """Train what is left of the epochs; the model is the best one then."""
        last_step = self.run.max_epoch * self.iters_per_epoch
        self.timer = IntervalTimer(self.device, writer, last_step, self.iters_per_epoch, trace)
        context = TrainContext(
            model=self.wrapped_model,
            optimizer=self.optimizer,
            lr_scheduler=self.lr_scheduler,
            device=self.device,
            precision=self.precision,
            seed=self.run.seed,
            iters_per_epoch=self.iters_per_epoch,
            scaler=self.scaler,
            accum_grad_iters=self.run.accum_grad_iters,
            log_freq=self.run.log_freq,
            grad_clip=self.run.grad_clip,
            writer=writer,
            timer=self.timer,
            on_update=self._after_update,
        )
        batches = iter(self._loader(self.stream, first=self.progress.global_step))
        for epoch in range(self.progress.completed_epochs, self.run.max_epoch):
            self.train_epoch(epoch, batches, context)
            self._finish_epoch(epoch, writer)
            spent = self.timer.end_interval(self.progress.global_step, epoch)
            if self.run.valid_splits:
                logger.info("after epoch %d: %.1f s, %s", epoch, spent["seconds"], shares(spent))
        if self.skipped:
            logger.warning(
                "%d corrupt images were skipped; listed in %s", len(self.skipped), self.skipped.path
            )
        if self.progress.best_epoch is not None:
            self._reload_best_model()
        with gathered(self.model):
            if is_main_process():
                self.model.export(self.output_dir)

    def train_epoch(self, epoch: int, batches: Iterator[Batch], context: TrainContext) -> dict[str, float]:
        """Train the rest of one epoch; return its mean losses."""
        start = self.progress.global_step - epoch * self.iters_per_epoch
        return self.task.train_epoch(epoch, batches, context, start_iters=start)

    def _start_or_resume(self) -> MetricsWriter:
        """Bring model, optimizer and files to where the training begins."""
        if is_main_process():
            remove_unfinished_saves(self.output_dir)
        checkpoint = find_resume_checkpoint(self.run.resume_ckpt_path, self.output_dir)
        if checkpoint is None:
            if is_main_process():
                set_aside(self.output_dir)
        else:
            self._resume(checkpoint)
        barrier()
        if self.world_size > 1 and not self.sharded:
            for value in trainable_state(self.model).values():
                dist.broadcast(value, src=0)
        names, step = self.run.log_with if is_main_process() else [], self.progress.global_step
        trackers = open_trackers(names, self.output_dir, step=step, config=self.config.to_dict())
        return MetricsWriter(self.output_dir / METRICS_FILE, trackers)

    def _resume(self, checkpoint: Path) -> None:
        saved = read_training(checkpoint, mmap=self.sharded)
        check_settings(saved, self.progress, self.config.to_dict()["run"])
        workers = saved.config["run"].get("num_workers")
        if isinstance(self.stream, ShardStream) and workers != self.run.num_workers:
            logger.warning(
                "run.num_workers was %s and is now %s, which changes the order of streamed samples",
                *(workers, self.run.num_workers),
            )
        if saved.shards is not None:
            self.model.check_origin(saved.model, saved.manifest, where=str(checkpoint))
            load_shards(checkpoint.with_name(saved.shards), self.model, self.optimizer)
            if self.scaler is not None and saved.scaler:
                self.scaler.load_state_dict(saved.scaler)
        else:
            restore_training(saved, model=self.model, optimizer=self.optimizer, scaler=self.scaler)
        self.progress = replace(saved.progress, world_size=self.world_size)
        best = find_best(checkpoint, self.output_dir, self.progress)
        barrier()  # all have looked before files are moved
        if is_main_process():
            take_over(checkpoint, self.output_dir, best, self.progress)
        if best is None and self.progress.best_epoch is not None:
            logger.warning(
                "the best checkpoint so far, of epoch %d, is not there: the best is chosen among the coming "
                "epochs",
                self.progress.best_epoch,
            )
            self.progress.best_epoch = self.progress.best_metric = None
        logger.info("resuming from %s, after %d batches", checkpoint, self.progress.global_step)

    def _after_update(self, before: int, after: int, check: Callable[[], None]) -> None:
        """Take note of an optimizer step, and save if a multiple of ``checkpoint_steps`` was reached.

        Args:
            check: raises an error if the weights are not worth saving.
        """
        self.progress.global_step = after
        every = self.run.checkpoint_steps
        if every is not None and before // every < after // every:
            check()
            self._save_checkpoint(self.progress.completed_epochs, self.output_dir / LAST)

    def _finish_epoch(self, epoch: int, writer: MetricsWriter) -> None:
        """Score the validation splits, keep the checkpoint if it is the best, replace the previous one."""
        is_best = False
        for number, split in enumerate(self.run.valid_splits):
            with self.timer.phase("validation"):
                metrics = self.eval_epoch(split, epoch, writer, event="valid")
            if not math.isfinite(metrics["agg_metrics"]):
                raise NonFiniteLossError(
                    f"the score of the split '{split}' after epoch {epoch} is {metrics['agg_metrics']}. "
                    "Lower run.init_lr, set run.grad_clip, or train in run.precision bf16 or fp32."
                )
            best = self.progress.best_metric
            if number == 0 and (best is None or metrics["agg_metrics"] > best):
                self.progress.best_epoch, self.progress.best_metric = epoch, metrics["agg_metrics"]
                is_best = True
        self.progress.completed_epochs = epoch + 1
        if is_best:
            self._save_checkpoint(epoch, self.output_dir / BEST)
        self._save_checkpoint(epoch, self.output_dir / epoch_file(epoch))
        if is_main_process():
            (self.output_dir / epoch_file(epoch - 1)).unlink(missing_ok=True)
            remove_unused_shards(self.output_dir)

    def _save_checkpoint(self, cur_epoch: int, path: Path) -> None:
        if not (is_main_process() or self.sharded):
            return
        shards: str | None = None
        with self.timer.phase("checkpoint"):
            if self.sharded and path.name != BEST:
                shards = f"{path.stem}_{self.progress.global_step}{SHARDS}"
                save_shards(path.with_name(shards), path, self.model, self.optimizer)
            save_training(
                path,
                model=self.model,
                optimizer=self.optimizer,
                scaler=self.scaler,
                config=self.config.to_dict(),
                epoch=cur_epoch,
                progress=self.progress,
                job_id=self.job_id,
                shards=shards,
            )
            if shards is not None and is_main_process():
                remove_unused_shards(self.output_dir)

    # Evaluation

    def evaluate(
        self,
        ckpt: str | Path | None = None,
        cur_epoch: int | str = "best",
        skip_reload: bool = False,
        writer: MetricsWriter | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Score the test splits; return the metrics of each.

        Args:
            ckpt: the checkpoint to score; None means the best one in the output folder.
            cur_epoch: names the model in the metrics.
            skip_reload: score the model as it is.
        """
        if not skip_reload:
            self._reload_model(Path(ckpt) if ckpt is not None else self.output_dir / BEST)
        return {
            split: self.eval_epoch(split, cur_epoch, writer, event="test") for split in self.run.test_splits
        }

    def eval_epoch(
        self,
        split_name: str,
        cur_epoch: int | str,
        writer: MetricsWriter | None,
        event: Literal["valid", "test"] = "valid",
    ) -> dict[str, Any]:
        """Score one split of all data sets that have it; `event` marks the line in the metrics file."""
        run, divided = self.run, self.run.use_dist_eval_sampler
        context = EvalContext(
            self.device, self.precision, run.seed, self.output_dir, split_name, event, gather=divided
        )
        rows: list[dict[str, Any]] = []
        part = (self.rank, self.world_size) if divided else (0, 1)
        for dataset in datasets_of(self.datasets, split_name):
            with unsharded(self.model):
                size = self._eval_batch_size(dataset, context)
                stream = EvalStream(dataset, size, run.seed, *part, prompt=self.prompts[0])
                rows += self.task.evaluate_split(self.model, stream, self._loader, context=context)
        if not rows:
            raise DataError(f"no sample of the split '{split_name}' could be read; see {self.skipped.path}")
        metrics = self.task.after_evaluation(rows, split_name, cur_epoch, context=context)
        numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
        shown = "  ".join(f"{key} {value:.4g}" for key, value in numbers.items())
        logger.info("%s split %s, epoch %s: %s", event, split_name, cur_epoch, shown)
        if writer is not None:
            step = self.progress.global_step
            writer.write({"event": event, "step": step, "epoch": cur_epoch, "split": split_name, **metrics})
        return metrics

    def _eval_batch_size(self, dataset: ReportDataset, context: EvalContext) -> int:
        """Return ``run.batch_size_eval``; what "auto" stands for is found once, with the first data set."""
        if self.eval_batch_size == "auto":
            stream = EvalStream(dataset, 1, self.run.seed, prompt=self.prompts[0])
            first = next(iter(BatchLoader(stream)), None)
            if first is None:
                return 1  # no image can be read, which the evaluation says
            self.eval_batch_size = self.task.largest_eval_batch(
                self.model, first, len(dataset), context=context
            )
            logger.info("run.batch_size_eval: auto is %d", self.eval_batch_size)
        return self.eval_batch_size

    def _reload_best_model(self) -> None:
        barrier()  # process 0 may still be writing it
        self._reload_model(self.output_dir / BEST)

    def _reload_model(self, path: Path) -> None:
        load_trainable_state(self.model, load_weights(path), where=str(path))
        logger.info("weights loaded from %s", path)

    # Parts

    def setup_output_dir(self) -> Path:
        """Make and return the output folder, ``run.output_dir`` exactly as given."""
        folder = Path(self.run.output_dir).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _build_stream(self) -> TrainStream | ShardStream:
        """Return the stream over the training splits of all data sets, mixed by their `sample_ratio`.

        Raises:
            DataError: a training split is in no data set.
        """
        datasets: list[ReportDataset] = []
        ratios: list[float] = []
        names: list[str] = []
        for split in self.run.train_splits:
            datasets += datasets_of(self.datasets, split)
            having = [name for name, splits in self.datasets.items() if normalise_split(split) in splits]
            ratios += [self.config.datasets_cfg[name].sample_ratio for name in having]
            names += having
        if self.run.feature_cache is not None:
            datasets = cached_datasets(
                datasets,
                names,
                cfg=self.config,
                settings=self.run.feature_cache,
                model=self.model,
                device=self.device,
                precision=self.precision,
            )
        return train_stream(
            datasets,
            ratios,
            batch_size=self.run.batch_size_train,
            seed=self.run.seed,
            rank=self.rank,
            world_size=self.world_size,
            prompts=self.prompts,
            lengths_of=self.model.caption_lengths if self.run.group_by_length else None,
        )

    def _build_lr_scheduler(self) -> LRScheduler:
        return registry.get_lr_scheduler_class(self.run.lr_sched)(
            optimizer=self.optimizer,
            max_epoch=self.run.max_epoch,
            iters_per_epoch=self.iters_per_epoch,
            min_lr=self.run.min_lr,
            init_lr=self.run.init_lr,
            decay_rate=self.run.lr_decay_rate,
            warmup_start_lr=self.run.warmup_lr,
            warmup_steps=self.run.warmup_steps,
        )

    def _loader(self, stream: TrainStream | ShardStream | EvalStream, first: int = 0) -> BatchLoader:
        return BatchLoader(
            stream,
            first=first,
            num_workers=self.run.loading_processes(),
            pin_memory=self.device.type == "cuda",
            on_skipped=self.skipped.add,
        )


def log_cut_captions(model: BaseModel, datasets: Mapping[str, Splits], splits: Sequence[str]) -> None:
    """Log, for each data set and split, how many reports are longer than ``max_txt_len`` and are cut."""
    for name, parts in datasets.items():
        for split in dict.fromkeys(map(normalise_split, splits)):
            data = parts.get(split)
            if data is None or isinstance(data, StreamedDataset):
                continue
            counted = range(len(data))[:: -(-len(data) // MAX_COUNTED)]
            if cut := model.cut_captions([data.caption(index) for index in counted]):
                some = f" looked at ({len(data)} in all)" if len(counted) < len(data) else ""
                logger.warning(
                    "data set %s, split %s: %d of %d reports%s are longer than model.max_txt_len and are cut",
                    *(name, split, cut, len(counted), some),
                )
