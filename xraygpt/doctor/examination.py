"""What a training of a configuration needs of this machine, found without its weights."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError, XrayGPTError
from xraygpt.common.optims import build_optimizer
from xraygpt.common.precision import Precision, resolve_device, resolve_precision
from xraygpt.common.registry import registry
from xraygpt.common.run_config import RunConfig
from xraygpt.common.utils import available_cores
from xraygpt.datasets.batch import Batch, images_of
from xraygpt.datasets.feature_cache import FeatureIndex
from xraygpt.datasets.shard_stream import ShardStream
from xraygpt.datasets.stream import TrainStream, train_stream
from xraygpt.doctor.calibration import Calibration, Durations
from xraygpt.doctor.dry_run import DryRun, Step
from xraygpt.doctor.machine import device_name, resident_bytes, total_memory
from xraygpt.doctor.skeleton import (
    ASSUMED_ENCODER,
    build_skeleton,
    invented_batch,
    next_token,
    of_size,
    with_features,
    with_released_encoder,
)
from xraygpt.models.base_model import BaseModel
from xraygpt.models.vision_tower import preprocessing_for
from xraygpt.runners.compiling import block_lists
from xraygpt.runners.feature_cache import BATCH_SIZE
from xraygpt.tasks import setup_task
from xraygpt.tasks.base_task import BaseTask, Splits, datasets_of
from xraygpt.tasks.report_generation import CPU_BATCH

OPTIMIZER = "optimizer"
MOST_REPORTS = 2000
"""Reports that are looked at for the longest one."""
LONG_REPORT, LONG_REPEATS = "The lungs are clear. ", 512
"""A report that every limit of tokens cuts."""
GPU_CONTEXT = 600 << 20
"""What CUDA and the libraries take of a GPU before any tensor."""
USABLE = {"cpu": 0.9, "cuda": 0.95}
"""Share of the memory that a program can fill: the system needs some, and free pieces are scattered."""

SCATTERED = {"cpu": 1.6, "cuda": 1.0}
"""How much more than its tensors a step takes: the C library's heap has gaps between them, of half the size
of what lies there by Knuth's fifty-percent rule ("The Art of Computer Programming", 2.5), and 1.47 to 1.77
times were measured, see docs/performance.md; on a GPU PyTorch counts tensors."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Whatever else lives at the peak of a step."""
    program: int
    """Before there is a model: libraries, data, on a GPU its context."""

    @property
    def peak(self) -> int:
        """All together."""
        return sum(astuple(self))


@dataclass(frozen=True)
class Part:
    """A part of the model, or what a step does outside of them."""

    name: str
    parameters: int
    trained: int
    nbytes: int
    flop: int
    seconds: float


@dataclass
class Examination:
    """All that was found."""

    configuration: str
    arch: str
    device: str
    precision: str
    batch: int
    steps: int
    """Of the whole run."""
    processes: int
    problems: list[str] = field(default_factory=list)
    """What is missing, a paragraph each."""
    notes: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    memory: Memory | None = None
    largest_batch: int | None = None
    total_memory: int = 0
    durations: Durations | None = None
    loading: float | None = None
    """Seconds that one process takes to load a batch."""
    cache_bytes: int | None = None
    """What `run.feature_cache` needs on the disk, of all data sets."""
    once: dict[str, float] = field(default_factory=dict)
    """What else a run takes, in words -> seconds: before the first step and after the last epoch."""
    each_epoch: dict[str, float] = field(default_factory=dict)
    """The same for what follows each epoch."""
    epochs: int = 1
    num_workers: int = 0
    cores: int = 1

    @property
    def flop(self) -> int:
        """Operations of a step."""
        return sum(part.flop for part in self.parts)

    @property
    def loading_seconds(self) -> float:
        """Seconds that a batch takes to load, by all loading processes together."""
        return (self.loading or 0.0) / max(min(self.num_workers, self.cores), 1)

    @property
    def step_seconds(self) -> float:
        """Seconds of a step, waiting for data included."""
        assert self.durations is not None
        model = self.durations.total
        if self.num_workers == 0:
            return model + self.loading_seconds
        return max(model, self.loading_seconds)

    @property
    def run_seconds(self) -> float:
        """Seconds of the whole run."""
        after = self.epochs * sum(self.each_epoch.values())
        return self.steps * self.step_seconds + after + sum(self.once.values())

    @property
    def images_per_second(self) -> float:
        """Images a second of all processes."""
        return self.batch * self.processes / self.step_seconds

    @property
    def bottleneck(self) -> str:
        """Which of model and loader waits, in words."""
        assert self.durations is not None
        share = self.loading_seconds / self.step_seconds
        if self.num_workers == 0:
            return f"the model waits {share:.0%} of the time; run.num_workers loads beside it"
        if self.loading_seconds > self.durations.total:
            idle = 1 - self.durations.total / self.step_seconds
            return f"the model waits {idle:.0%} of the time; more run.num_workers, or prepared images, help"
        return "the loader waits for the model"


def examine(args: Any, *, budget: float = 10.0, processes: int = 1) -> Examination:
    """Examine the configuration that `args` names.

    Args:
        budget: seconds for running operations and loading data.
        processes: how many would train.

    Raises:
        XrayGPTError: the configuration itself cannot be used.
    """
    if processes < 1:
        raise ConfigError(f"--processes must be at least 1, got {processes}")
    cfg = Config(args)
    run = cfg.run_cfg
    sharded = run.parallel.strategy == "fsdp"
    if sharded and processes == 1:
        raise ConfigError("run.parallel.strategy is fsdp: tell over how many processes (--processes N)")
    device = resolve_device(run.device)
    precision = resolve_precision(run.precision, run.amp, device)
    found = _begun(cfg, args.cfg_path, device, precision, processes)
    if device.type == "cpu" and processes > 1:
        torch.set_num_threads(max(found.cores // processes, 1))  # as torchrun's processes share them
    task = setup_task(cfg)
    datasets = _datasets(cfg, task, found)
    dry = DryRun(device)
    try:
        model = build_skeleton(cfg, device, dry, found.notes)
        stream = _stream(cfg, model, datasets, processes) if datasets else None
        frozen = model.frozen_part() if run.feature_cache is not None else None
        if frozen is not None and isinstance(stream, ShardStream):
            stream.dataset.with_processor(None)  # says that it cannot be cached
    except XrayGPTError as error:
        found.problems.append(str(error))
        return found
    if sharded:
        found.notes.append("run.parallel: memory is that of a shard, time is without sending weights about")
    training = DryTraining(run, task, model, dry, precision, shards=processes if sharded else 1)

    began = time.perf_counter()
    if stream is None:
        found.notes.append("no training data: time and memory are those of the longest reports allowed")
        images: Mapping[str, Any] = invented_batch(cfg.model_cfg, found.batch, LONG_REPORT * LONG_REPEATS)
    else:
        images = _load(stream, found, budget / 10)
    loading = found.loading_seconds / found.batch  # of one image
    found.steps = run.max_epoch * (run.iters_per_epoch or (stream.one_pass() if stream is not None else 0))
    batch = images
    rows: list[int] = []
    fill: Step | None = None
    if frozen is not None and run.feature_cache is not None:
        sets = stream.datasets if isinstance(stream, TrainStream) else []
        rows = [len(data) * run.feature_cache.crops for data in sets]
        indices = [FeatureIndex(count, frozen.shape, run.feature_cache.dtype, "fp32") for count in rows]
        found.cache_bytes = sum(index.nbytes for index in indices)
        many = of_size(images, BATCH_SIZE)
        fill = training.without_gradient(lambda samples: frozen.encode(images_of(samples)), many)
        if isinstance(stream, TrainStream):
            stream.datasets = [data.with_processor(None) for data in sets]
            batch = _load(stream, found, budget / 10)
        batch = with_features(batch, frozen.shape)

    typical = training.step(batch)
    longest = batch if stream is None else _longest(stream, batch)
    step = typical if stream is None else training.step(longest)
    found.memory = training.memory(step, GPU_CONTEXT if device.type == "cuda" else resident_bytes())
    found.largest_batch = _largest_batch(training, longest, found)
    left = max(budget - (time.perf_counter() - began), budget / 2)
    calibration = Calibration(device)  # after the memory of this process was asked for
    found.durations = calibration.measure(typical, left * 0.6)
    found.parts = _parts(model, typical, found.durations)
    if fill is not None:
        seconds = calibration.measure(fill, left * 0.2).total / BATCH_SIZE + loading
        found.once["the features are computed"] = sum(rows) * seconds / processes
    sizes = _sizes_of_splits(run, datasets, found)
    if any(sizes.values()):
        scoring = _scoring_seconds(run, training, images, calibration, found, left * 0.2)
        together = processes if run.use_dist_eval_sampler else 1
        for name, place in (("validation", found.each_epoch), ("test", found.once)):
            if sizes.get(name) and scoring is not None:
                place[name] = sizes[name] * (scoring + loading) / together
    return found


def _begun(cfg: Config, path: str, device: torch.device, precision: Precision, processes: int) -> Examination:
    """Return an examination that holds what configuration and machine say by themselves."""
    run = cfg.run_cfg
    return Examination(
        configuration=path,
        arch=cfg.arch,
        device=device_name(device),
        precision=str(precision.dtype).removeprefix("torch."),
        batch=run.batch_size_train,
        steps=0,
        processes=processes,
        num_workers=run.loading_processes(),
        cores=available_cores(),
        total_memory=total_memory(device),
        epochs=run.max_epoch,
    )


def _datasets(cfg: Config, task: BaseTask, found: Examination) -> dict[str, Splits]:
    """Return the data sets; none if files of theirs are missing, which is noted with all else that is."""
    datasets: dict[str, Splits] = {}

    def complete(check: Callable[[], object]) -> bool:
        try:
            check()
        except XrayGPTError as error:
            found.problems += re.split(r"\n(?=missing )", str(error))
            return False
        return True

    if not complete(lambda: preprocessing_for(cfg.model_cfg)):
        cfg.model_cfg = with_released_encoder(cfg.model_cfg)
        found.notes.append(ASSUMED_ENCODER)
    complete(lambda: registry.get_model_class(cfg.arch, BaseModel).check_files(cfg.model_cfg))
    complete(lambda: datasets.update(task.build_datasets(cfg)))
    return datasets


def _sizes_of_splits(run: RunConfig, datasets: dict[str, Splits], found: Examination) -> dict[str, int]:
    """Return the samples that the validation has and the test, as far as there is data."""
    sizes: dict[str, int] = {}
    for name, chosen in (("validation", run.valid_splits), ("test", run.test_splits)):
        try:
            sizes[name] = sum(len(data) for split in chosen for data in datasets_of(datasets, split))
        except XrayGPTError as error:
            if datasets:
                found.problems.append(str(error))
            else:
                found.notes.append(f"{name} is not counted, as there is no data")
    return sizes


def _scoring_seconds(
    run: RunConfig,
    training: DryTraining,
    images: Mapping[str, Any],
    calibration: Calibration,
    found: Examination,
    budget: float,
) -> float | None:
    """Return what the model takes for an image of a validation or test; None where that is not known."""
    model = training.model
    if run.task not in ("image_text_pretrain", "report_generation"):
        found.notes.append(f"validation and test of the task {run.task} are not counted")
        return None
    size = run.batch_size_eval if run.batch_size_eval != "auto" else CPU_BATCH
    forward = training.without_gradient(model, of_size(images, size))
    seconds = calibration.measure(forward, budget / 2).total
    if run.task == "report_generation":
        if not hasattr(model, "llama_model"):
            found.notes.append("the writing of reports by this model is not counted")
            return None
        tokens = run.generate.max_new_tokens
        token = training.without_gradient(next_token(model, size), {})
        seconds += tokens * calibration.measure(token, budget / 2).total
        found.notes.append(
            f"writing a report is taken to be {tokens} tokens (run.generate.max_new_tokens) of one beam, "
            "without the attention to those before; reports that end earlier take less"
        )
    return seconds / size


class DryTraining:
    """Training steps of a skeleton, whose optimizer has its state already.

    Args:
        shards: processes that share the language model, what is trained, and the optimizer (FSDP2).
    """

    def __init__(
        self,
        settings: RunConfig,
        task: BaseTask,
        model: BaseModel,
        dry: DryRun,
        precision: Precision,
        shards: int = 1,
    ) -> None:
        self.task, self.model, self.dry, self.precision, self.shards = task, model, dry, precision, shards
        self.weights = dry.live_bytes
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.gradients = sum(weight.nbytes for weight in trained)
        model.train()
        self.optimizer = build_optimizer(model, settings)
        with dry:
            for weight in trained:
                weight.grad = torch.zeros_like(weight)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        leaves = tree_leaves(self.optimizer.state_dict())
        self.state = sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
        named = model.named_parameters()
        sharded = {
            weight for name, weight in named if weight.requires_grad or name.startswith("llama_model.")
        }
        blocks = [_nbytes(sharded & {*block.parameters()}) for each in block_lists(model) for block in each]
        self.sharded = _nbytes(sharded)
        # A block is put together when its turn comes, and the next one meanwhile; the rest stays whole.
        self.gathered = self.sharded - sum(blocks) + 2 * max(blocks, default=0)

    def step(self, batch: Mapping[str, Any]) -> Step:
        """Make one step."""
        with self.dry:
            samples = self._without_pixels(batch)
            with self.dry.recording(self.model) as step:
                with self.precision.autocast():
                    loss = self.task.train_step(self.model, samples)
                loss.backward()
                with self.dry.stage(OPTIMIZER):
                    self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
            self.task.outputs = {}
            del loss, samples
        return step

    def without_gradient(self, run: Callable[[Any], object], batch: Mapping[str, Any]) -> Step:
        """Run something on a batch as it runs in an evaluation."""
        self.model.eval()
        with self.dry, torch.no_grad():
            samples = self._without_pixels(batch)
            with self.dry.recording(self.model) as step, self.precision.autocast():
                run(samples)
        self.model.train()
        return step

    def memory(self, step: Step, program: int) -> Memory:
        """Return what a step takes; `program` is what there is before."""
        rest = max(step.peak_bytes - self.weights - self.gradients - self.state, 0)
        elsewhere = 1 - 1 / self.shards
        rest = int(rest * SCATTERED[self.dry.device.type] + self.gathered * elsewhere)
        weights = self.weights - int(self.sharded * elsewhere)
        return Memory(weights, self.gradients // self.shards, self.state // self.shards, rest, program)

    def _without_pixels(self, batch: Mapping[str, Any]) -> Any:
        """Return the batch with new tensors of the same shapes, which take no memory."""
        empty = partial(torch.empty, device=self.dry.device)
        return tree_map_only(Tensor, lambda each: empty(each.shape, dtype=each.dtype), dict(batch))


def _stream(
    cfg: Config, model: BaseModel, datasets: dict[str, Splits], processes: int
) -> TrainStream | ShardStream:
    """Return what process 0 would train on."""
    chosen = [data for split in cfg.run_cfg.train_splits for data in datasets_of(datasets, split)]
    return train_stream(
        chosen,
        [1.0] * len(chosen),
        batch_size=cfg.run_cfg.batch_size_train,
        seed=cfg.run_cfg.seed,
        world_size=processes,
        prompts=list(model.prompt_list) or [""],
        lengths_of=model.caption_lengths if cfg.run_cfg.group_by_length else None,
    )


def _load(stream: TrainStream | ShardStream, found: Examination, budget: float) -> Mapping[str, Any]:
    """Return a batch of middling length, from those loaded in the time; set `found.loading`."""
    seconds: list[float] = []
    batches: list[Batch] = []
    began = time.perf_counter()
    while len(seconds) < 2 or time.perf_counter() - began < budget:
        started = time.perf_counter()
        loaded = stream[len(seconds)]
        if isinstance(loaded, Exception):
            raise loaded
        seconds.append(time.perf_counter() - started)
        batches.append(loaded)
    found.loading = statistics.median(seconds[1:])
    batches.sort(key=lambda batch: max(map(len, batch["caption"])))
    return batches[len(batches) // 2]


def _longest(stream: TrainStream | ShardStream, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the batch with the longest report throughout, in place of conversations too."""
    captions = batch["caption"] + [
        data.caption(index)
        for data in (stream.datasets if isinstance(stream, TrainStream) else ())
        for index in range(0, len(data), -(-len(data) // MOST_REPORTS))
    ]
    others = {key: value for key, value in batch.items() if key != "turns"}
    return {**others, "caption": [max(captions, key=len)] * len(batch["caption"])}


def _largest_batch(training: DryTraining, longest: Mapping[str, Any], found: Examination) -> int:
    """Return how many images fit into the memory there is, from the steps of two batches."""
    assert found.memory is not None
    size = len(longest["image_id"])
    one = found.memory.peak
    two = training.memory(training.step(of_size(longest, 2 * size)), found.memory.program).peak
    each = max((two - one) / size, 1.0)
    usable = found.total_memory * USABLE[training.dry.device.type]
    return max(int(size + (usable - one) / each), 0)


def _nbytes(weights: Iterable[Tensor]) -> int:
    """Return the bytes that weights lie in, which are fewer than those of their elements if quantised."""
    return sum(weight.untyped_storage().nbytes() for weight in weights)


def _parts(model: BaseModel, step: Step, durations: Durations) -> list[Part]:
    """Return the children of the model and weights of its own, and the rest of the step."""
    weights: dict[str, list[nn.Parameter]] = {name: [] for name, _ in model.named_children()}
    for name, weight in model.named_parameters():
        weights.setdefault(name.partition(".")[0], []).append(weight)
    parts = [
        Part(
            name,
            parameters=sum(weight.numel() for weight in own),
            trained=sum(weight.numel() for weight in own if weight.requires_grad),
            nbytes=_nbytes(own),
            flop=step.flop.get(name, 0),
            seconds=durations.parts.get(name, 0.0),
        )
        for name, own in (weights | {name: weights.get(name, []) for name in durations.parts}).items()
    ]
    return [part for part in parts if part.parameters or part.seconds]
