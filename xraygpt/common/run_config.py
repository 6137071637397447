"""The `run` section of a configuration: how a model is trained, saved and evaluated."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Literal

from xraygpt.common.generation import GenerationConfig
from xraygpt.common.utils import available_cores


@dataclass
class FeatureCacheConfig:
    """The section ``run.feature_cache``: what frozen parts make of the training images, computed once."""

    crops: int = 1
    """Crops K of each image. 1 is the whole image, as evaluation sees it; more are K random crops of the
    training's image processor, one of which is drawn each time the image is trained on."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format on the disk."""
    folder: str | None = None
    """Where caches lie, each in a folder of its own; null is ``features`` in ``$XRAYGPT_CACHE`` or
    ``~/.cache/xraygpt``. Processes on several machines have to share it."""

    def __post_init__(self) -> None:
        if self.crops < 1:
            raise ValueError(f"crops must be at least 1, got {self.crops}")


@dataclass
class ParallelConfig:
    """The section ``run.parallel``: how several training processes share a model."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """"ddp": each process holds the whole model. "fsdp": each holds a part of the language model, of what is
    trained, and of the optimizer's state (PyTorch's FSDP2); for a language model that does not fit on one
    GPU beside what its training needs. Evaluation holds the whole model in each process with both."""


@dataclass
class RunConfig:
    """What every run has; keys and meanings of the reference where it has them.

    A task's own keys are in its `config_class`.
    """

    task: str = "image_text_pretrain"
    """Registered name of the task: what a training step and an evaluation are."""
    runner: str = "runner_base"
    """Registered name of the runner."""
    output_dir: str = "output"
    """Folder for the log, metrics, checkpoints and results, used exactly as given. A configuration file
    that does not set it gets ``output/<name of the file>``."""

    # Where it runs
    device: str = "auto"
    """"auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N"."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the forward pass. "auto": fp32 on the CPU, and on a GPU if `amp` is false; else bf16
    on a GPU that has it; on one that has not, fp16 if `amp` is true and fp32 if it is null. "fp16" scales
    the loss."""
    amp: bool | None = None
    """The reference's switch, heeded when `precision` is "auto" on a GPU: true means bf16 or, where that is
    missing, fp16; false means fp32; null means bf16 or, where that is missing, fp32."""
    seed: int = 42
    """Seed of all random numbers. Those of a training step are derived from it, the step and the number of
    the process, so that they do not depend on what was drawn before."""
    num_workers: int | Literal["auto"] = 0
    """Data loading processes for each training process; 0 loads in the training process itself, "auto" takes
    one for each core that is left, 8 at most. The batches are the same with any number."""
    distributed: bool = True
    """Train in several processes when the program is started by torchrun; without it this has no effect."""
    world_size: int = 1
    """Accepted for the reference's files; torchrun decides the number of processes."""
    dist_url: str = "env://"
    """Rendezvous address of the processes; "env://" reads torchrun's environment variables."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """How they share a model, e.g. {strategy: fsdp}."""

    # Data
    train_splits: list[str] = field(default_factory=lambda: ["train"])
    """Splits to train on."""
    valid_splits: list[str] = field(default_factory=list)
    """Splits scored after each epoch; the checkpoint that scores best on the first one is kept."""
    test_splits: list[str] = field(default_factory=list)
    """Splits scored with the best checkpoint after training, or when only evaluating."""
    batch_size_train: int = 1
    """Samples in a training batch of one process."""
    group_by_length: bool = False
    """Put reports of like length into a training batch, so that little is padded. The samples of every 64
    batches stay the same; only their arrangement changes, and it is still a function of `seed` and step."""
    batch_size_eval: int | Literal["auto"] = 1
    """Samples in an evaluation batch of one process. "auto", where reports are generated: as many as a GPU
    has memory for, found before the first evaluation by writing reports of full length for 1, 2, 4, … images;
    16 on the CPU. The log states the number."""
    use_dist_eval_sampler: bool = True
    """Divide evaluation data between the processes; otherwise each process scores all of it."""
    feature_cache: FeatureCacheConfig | None = None
    """Compute what the frozen vision encoder (and the bridge, if frozen) makes of the training images once,
    before training, and train on that, e.g. {crops: 1}; null computes it at every step."""

    # Length
    max_epoch: int = 1
    """Number of epochs."""
    iters_per_epoch: int | None = None
    """Batches in an epoch; null means one pass over the training data."""

    # Optimizer
    optimizer: Literal["adamw", "muon"] = "adamw"
    """"muon" orthogonalises the updates of hidden 2-D weights and uses AdamW for all others."""
    init_lr: float = 1e-4
    """Learning rate after the warm-up."""
    learning_rates: dict[str, float | None] = field(default_factory=dict)
    """Rates of parts that take another one than `init_lr`, e.g. {llama_proj: 1e-3, adapter: 2e-4}: children
    of the model by name (llama_proj, Qformer, visual_encoder, llama_model, ...), and "adapter" for all
    adapters; null takes one of a file back. The schedule is the same: `min_lr` and `warmup_lr` are scaled
    likewise. Only for "adamw"."""
    weight_decay: float = 0.05
    """Decoupled weight decay of weights with two or more dimensions; biases and norms have none."""
    beta2: float = 0.999
    """Decay rate of AdamW's second moment."""
    grad_clip: float | None = None
    """Largest norm of the gradient of all parameters together; null does not clip."""
    accum_grad_iters: int = 1
    """Batches of each process that make one optimizer step. Its gradient is the one that a single batch of
    all their samples would have: where the loss is a mean over text tokens, each token of the step counts the
    same, whichever batch or process it is in. Losses that compare the pairs of one batch (contrast, matching,
    and the loss of writing beside them) are averaged over the batches."""

    # Learning-rate schedule
    lr_sched: str = "linear_warmup_cosine_lr"
    """Registered name of the learning-rate schedule."""
    min_lr: float = 0.0
    """Learning rate that the schedule ends at, or does not go below."""
    warmup_lr: float = -1.0
    """Learning rate at the first step of the warm-up; negative means `init_lr`."""
    warmup_steps: int = 0
    """Steps of linear warm-up, counted over the whole training."""
    lr_decay_rate: float = 1.0
    """Factor for each epoch in "linear_warmup_step_lr"."""
    lr_layer_decay: float = 1.0
    """Factor by which each layer of a trained vision encoder learns slower than the layer after it; 1 is one
    rate for all. Only for "adamw"."""

    # Speed
    compile: bool = False
    """Compile the repeated blocks of the model with torch.compile: the first steps of a shape take longer. On
    a GPU reports are then written with a cache of fixed size by a compiled language model."""
    kernels: Literal["liger"] | None = None
    """"liger" has norms, feed-forward blocks and rotary positions of the language model computed by the fused
    kernels of liger-kernel, on a GPU; null by PyTorch."""

    # Saving, resuming, evaluating
    checkpoint_steps: int | None = None
    """Also save a checkpoint every this many steps; null saves at the end of each epoch only."""
    resume_ckpt_path: str | None = None
    """Checkpoint to resume from, or "auto" for the latest one in `output_dir`."""
    log_freq: int = 50
    """Steps between two lines of the log. Only then, and before a checkpoint, losses are fetched from the
    device, written to ``metrics.jsonl`` and checked for NaN and infinity: no step waits for them."""
    profile_steps: int | None = None
    """Trace this many training steps, after five others, with PyTorch's profiler, into ``trace.json`` of
    `output_dir`; https://ui.perfetto.dev shows it. Null traces none."""
    log_with: list[Literal["tensorboard", "wandb"]] = field(default_factory=list)
    """Where the numbers of a training's ``metrics.jsonl`` go as well: "tensorboard" (event files in
    ``tensorboard/`` of `output_dir`), "wandb" (Weights & Biases; WANDB_PROJECT, WANDB_MODE=offline)."""
    evaluate: bool = False
    """Do not train; score `test_splits` only."""
    next: str | None = None
    """Program and configuration to name at the end as the next step, such as "evaluate
    eval_configs/quickstart.yaml"; null names one that uses what this run has made."""
    generate: GenerationConfig = field(default_factory=GenerationConfig)
    """How reports are generated, for scoring and in the demo."""

    def loading_processes(self) -> int:
        """Return `num_workers` as a number; a training process has its share of this machine's cores."""
        if self.num_workers != "auto":
            return self.num_workers
        return max(0, min(8, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))

    def __post_init__(self) -> None:
        if self.next is not None and not re.match(r"(train|evaluate|demo) \S", self.next):
            raise ValueError(f"next must be train, evaluate or demo and a file, got {self.next!r}")
        at_least_one = ["batch_size_train", "batch_size_eval", "max_epoch", "accum_grad_iters", "log_freq"]
        at_least_one += ["iters_per_epoch", "checkpoint_steps", "world_size", "profile_steps"]
        for name in at_least_one:
            value = getattr(self, name)
            if value not in (None, "auto") and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ["num_workers", "warmup_steps", "seed", "init_lr", "min_lr", "weight_decay"]:
            value = getattr(self, name)
            if value != "auto" and value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if self.min_lr > self.init_lr:
            raise ValueError(f"min_lr ({self.min_lr}) must not be larger than init_lr ({self.init_lr})")
        if not 0.0 <= self.beta2 < 1.0:
            raise ValueError(f"beta2 must be at least 0 and below 1, got {self.beta2}")
        if self.grad_clip is not None and self.grad_clip <= 0:
            raise ValueError(f"grad_clip must be positive, or null for none, got {self.grad_clip}")
        for name in ["lr_decay_rate", "lr_layer_decay"]:
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")
        for name, rate in self.learning_rates.items():
            if rate is not None and rate <= 0:
                raise ValueError(f"learning_rates: {name} must be positive, got {rate}")
        if self.learning_rates and self.init_lr == 0:
            raise ValueError("learning_rates need an init_lr above 0")
        if self.optimizer != "adamw" and (self.lr_layer_decay < 1.0 or self.learning_rates):
            raise ValueError("lr_layer_decay and learning_rates need the optimizer 'adamw'")
