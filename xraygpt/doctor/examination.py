"""What a training of a configuration needs of this machine, found without its weights."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from xraygpt.common.config import Config
from xraygpt.common.errors import XrayGPTError
from xraygpt.common.optims import build_optimizer
from xraygpt.common.precision import Precision, resolve_device, resolve_precision
from xraygpt.common.registry import registry
from xraygpt.common.run_config import RunConfig
from xraygpt.common.utils import available_cores
from xraygpt.datasets.batch import Batch
from xraygpt.datasets.stream import TrainStream
from xraygpt.doctor.calibration import Durations, time_step
from xraygpt.doctor.dry_run import DryRun, Step
from xraygpt.doctor.machine import device_name, resident_bytes, total_memory
from xraygpt.doctor.skeleton import build_skeleton, invented_batch, of_size, with_length, without_pixels
from xraygpt.models.base_model import BaseModel
from xraygpt.tasks import setup_task
from xraygpt.tasks.base_task import BaseTask, Splits, datasets_of

OPTIMIZER = "optimizer"
MOST_REPORTS = 2000
"""Reports that are looked at for the longest one."""
LONG_REPORT, LONG_REPEATS = "The lungs are clear. ", 512
"""A report that every limit of tokens cuts."""
GPU_CONTEXT = 600 << 20
"""What CUDA and the libraries take of a GPU before any tensor."""
USABLE = {"cpu": 0.9, "cuda": 0.95}
"""Share of the memory that a program can fill: the system needs some, and free pieces are scattered."""

SCATTERED = {"cpu": 1.5, "cuda": 1.0}
"""How much more than its tensors a step takes: the C library's heap has gaps between them, and operations
have room of their own. Measured on the CPU, see docs/performance.md; on a GPU PyTorch counts tensors."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process."""

    program: int
    """Before there is a model: libraries, data, on a GPU its context."""
    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Whatever else lives at the peak of a step."""

    @property
    def peak(self) -> int:
        """All together."""
        return self.program + self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Part:
    """A part of the model, or what a step does outside of them."""

    name: str
    parameters: int = 0
    trained: int = 0
    nbytes: int = 0
    flop: int = 0
    seconds: float = 0.0


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
    cfg = Config(args)
    run = cfg.run_cfg
    device = resolve_device(run.device)
    precision = resolve_precision(run.precision, run.amp, device)
    cores = available_cores()
    if device.type == "cpu" and processes > 1:
        torch.set_num_threads(max(cores // processes, 1))  # as torchrun's processes share them
    found = Examination(
        configuration=args.cfg_path,
        arch=cfg.arch,
        device=device_name(device),
        precision=str(precision.dtype).removeprefix("torch."),
        batch=run.batch_size_train,
        steps=0,
        processes=processes,
        num_workers=run.loading_processes(),
        cores=cores,
        total_memory=total_memory(device),
    )
    model_class = registry.get_model_class(cfg.arch, BaseModel)
    task = setup_task(cfg)
    datasets: dict[str, Splits] = {}
    for check in (
        lambda: model_class.check_files(cfg.model_cfg),
        lambda: datasets.update(task.build_datasets(cfg)),
    ):
        try:
            check()
        except XrayGPTError as error:
            found.problems += re.split(r"\n(?=missing )", str(error))

    dry = DryRun(device)
    model, found.notes = build_skeleton(cfg, device, dry)
    stream = _stream(cfg, model, datasets, processes) if datasets else None
    batch, longest, seconds_left = _batches(cfg, stream, found, budget)
    samples = sum(map(len, stream.datasets)) if stream is not None else 0
    one_pass = -(-samples // (run.batch_size_train * processes))
    found.steps = run.max_epoch * (run.iters_per_epoch or one_pass)

    if run.feature_cache is not None:
        found.notes.append(
            "run.feature_cache is not counted: the time is that of steps that run the frozen parts, and "
            "neither the making of the cache nor its files are in these figures"
        )
    training = DryTraining(run, task, model, dry, device, precision)
    typical = training.step(batch)
    program = GPU_CONTEXT if device.type == "cuda" else resident_bytes()
    found.memory = training.memory(longest, program)
    found.largest_batch = _largest_batch(training, longest, found)
    found.durations = time_step(typical, device, seconds_left)
    found.parts = _parts(model, typical, found.durations)
    return found


class DryTraining:
    """Training steps of a skeleton."""

    def __init__(
        self,
        settings: RunConfig,
        task: BaseTask,
        model: BaseModel,
        dry: DryRun,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.task, self.model, self.dry, self.device, self.precision = task, model, dry, device, precision
        self.weights = dry.live_bytes
        self.trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
        model.train()
        self.optimizer = build_optimizer(model, settings)

    def step(self, batch: Mapping[str, Any]) -> Step:
        """Make one step; the optimizer has its state from the first one on."""
        with self.dry:
            samples: Any = without_pixels(batch, self.device)
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

    def memory(self, batch: Mapping[str, Any], program: int) -> Memory:
        """Return what a step with this batch takes; `program` is what there is before."""
        peak = self.step(batch).peak_bytes
        state = sum(
            leaf.nbytes for leaf in tree_leaves(self.optimizer.state_dict()) if isinstance(leaf, Tensor)
        )
        rest = max(peak - self.weights - self.trained - state, 0)
        rest = int(rest * SCATTERED[self.device.type])
        return Memory(program, self.weights, self.trained, state, rest)


def _stream(cfg: Config, model: BaseModel, datasets: dict[str, Splits], processes: int) -> TrainStream:
    """Return what process 0 would train on."""
    chosen = [data for split in cfg.run_cfg.train_splits for data in datasets_of(datasets, split)]
    return TrainStream(
        chosen,
        [1.0] * len(chosen),
        batch_size=cfg.run_cfg.batch_size_train,
        seed=cfg.run_cfg.seed,
        world_size=processes,
        prompts=list(model.prompt_list) or [""],
        lengths_of=model.caption_lengths if cfg.run_cfg.group_by_length else None,
    )


def _batches(
    cfg: Config, stream: TrainStream | None, found: Examination, budget: float
) -> tuple[Mapping[str, Any], Mapping[str, Any], float]:
    """Return a batch of middling length, one with the longest report throughout, and the rest of `budget`.

    Sets `found.loading`, from batches loaded for a fifth of the time at most.
    """
    size = cfg.run_cfg.batch_size_train
    if stream is None:
        batch = invented_batch(cfg, size)
        found.notes.append("no training data: time and memory are those of the longest reports allowed")
        longest = with_length(batch, LONG_REPORT * LONG_REPEATS)
        return longest, longest, budget
    seconds: list[float] = []
    batches: list[Batch] = []
    began = time.perf_counter()
    while len(seconds) < 2 or time.perf_counter() - began < budget / 5:
        started = time.perf_counter()
        loaded = stream[len(seconds)]
        if isinstance(loaded, Exception):
            raise loaded
        seconds.append(time.perf_counter() - started)
        batches.append(loaded)
    found.loading = statistics.median(seconds[1:])
    captions = [
        data.caption(index)
        for data in stream.datasets
        for index in range(0, len(data), -(-len(data) // MOST_REPORTS))
    ]
    longest = with_length(batches[0], max(captions, key=len))
    batches.sort(key=lambda batch: max(map(len, batch["caption"])))
    return batches[len(batches) // 2], longest, max(budget - (time.perf_counter() - began), 1.0)


def _largest_batch(training: DryTraining, longest: Mapping[str, Any], found: Examination) -> int:
    """Return how many images fit into the memory there is, from the steps of two batches."""
    assert found.memory is not None
    size = len(longest["image_id"])
    one = found.memory.peak
    two = training.memory(of_size(longest, 2 * size), found.memory.program).peak
    each = max((two - one) / size, 1.0)
    usable = found.total_memory * USABLE[training.device.type]
    return max(int(size + (usable - one) / each), 0)


def _parts(model: BaseModel, step: Step, durations: Durations) -> list[Part]:
    """Return the children of the model that hold or compute something, and the rest of the step."""
    flop = step.flop
    parts = []
    for name, child in model.named_children():
        weights = list(child.parameters())
        part = Part(
            name=name,
            parameters=sum(p.numel() for p in weights),
            trained=sum(p.numel() for p in weights if p.requires_grad),
            nbytes=sum(p.nbytes for p in weights),
            flop=flop.pop(name, 0),
            seconds=durations.parts.get(name, 0.0),
        )
        if part.parameters or part.seconds:
            parts.append(part)
    own = dict(model.named_parameters(recurse=False))
    parts += [
        Part(name, weight.numel(), weight.numel() if weight.requires_grad else 0, weight.nbytes)
        for name, weight in own.items()
    ]
    known = {part.name for part in parts}
    for name, seconds in durations.parts.items():
        if name not in known:
            parts.append(Part(name, flop=flop.get(name, 0), seconds=seconds))
    return parts
