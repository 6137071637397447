"""Learning-rate schedules and optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast, overload, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import registry
from xraygpt.common.run_config import RunConfig

ADAPTER_KEY = ".lora_"
"""What the names of an adapter's parameters hold."""
# Output layers over a vocabulary; like embeddings they are no hidden weights.
OUTPUT_LAYERS = ("lm_head", "decoder", "head")


@runtime_checkable
class Layered(Protocol):
    """A part of a model whose layers can have learning rates of their own."""

    def layers_to_output(self, name: str) -> int:
        """Return how far its parameter `name` is from its output, in layers; 1 is the last layer."""


# Schedules


def cosine_lr_schedule(
    optimizer: Optimizer, epoch: float, max_epoch: float, init_lr: float, min_lr: float
) -> None:
    """Set the learning rate on half a cosine from `init_lr` at 0 to `min_lr` at `max_epoch`."""
    _set_lr(optimizer, min_lr + (init_lr - min_lr) * 0.5 * (1.0 + math.cos(math.pi * epoch / max_epoch)))


def warmup_lr_schedule(optimizer: Optimizer, step: int, max_step: int, init_lr: float, max_lr: float) -> None:
    """Set the learning rate on the line from `init_lr` at step 0 to `max_lr` at `max_step`."""
    _set_lr(optimizer, min(max_lr, init_lr + (max_lr - init_lr) * step / max(max_step, 1)))


def step_lr_schedule(
    optimizer: Optimizer, epoch: int, init_lr: float, min_lr: float, decay_rate: float
) -> None:
    """Set the learning rate to ``init_lr * decay_rate ** epoch``, but not below `min_lr`."""
    _set_lr(optimizer, max(min_lr, init_lr * decay_rate**epoch))


def _set_lr(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


class _Warmup:
    """A linear warm-up from `warmup_start_lr` (negative means `init_lr`) to `init_lr`, then `after_warmup`.

    Unlike the reference's, it counts steps over the whole training instead of starting again in each epoch;
    the two are equal wherever the warm-up ends within the first epoch. All groups of the optimizer get the
    same rate, times their "lr_scale" if they have one.
    """

    optimizer: Optimizer
    init_lr: float
    warmup_steps: int
    warmup_start_lr: float
    iters_per_epoch: int | None

    def step(self, cur_epoch: int, cur_step: int) -> None:
        """Set the rate for step `cur_step` (counted within the epoch) of epoch `cur_epoch`, both from 0."""
        step = cur_step if cur_epoch == 0 else self.warmup_steps
        if self.iters_per_epoch is not None:
            step = cur_epoch * self.iters_per_epoch + cur_step
        if step < self.warmup_steps:
            start = self.warmup_start_lr if self.warmup_start_lr >= 0 else self.init_lr
            warmup_lr_schedule(self.optimizer, step, self.warmup_steps, start, self.init_lr)
        else:
            self.after_warmup(cur_epoch, step)

    def after_warmup(self, epoch: int, step: int) -> None:
        """Set the rate for a step of the whole training."""
        raise NotImplementedError


@registry.register_lr_scheduler("linear_warmup_cosine_lr")
@dataclass
class LinearWarmupCosineLRScheduler(_Warmup):
    """Linear warm-up, then a cosine over the whole training; it counts from step 0, warm-up included."""

    optimizer: Optimizer
    max_epoch: int
    """Epochs of the training."""
    iters_per_epoch: int
    """Steps of an epoch."""
    min_lr: float
    """Rate at the end."""
    init_lr: float
    """Rate at the top of the cosine."""
    warmup_steps: int = 0
    """Steps of the warm-up."""
    warmup_start_lr: float = -1.0
    """Rate at step 0 of the warm-up."""
    decay_rate: float = 1.0
    """Not used: the two schedules take the same arguments."""

    def after_warmup(self, epoch: int, step: int) -> None:
        """Set the rate for a step of the whole training."""
        total = self.max_epoch * self.iters_per_epoch
        cosine_lr_schedule(self.optimizer, step, total, self.init_lr, self.min_lr)


@registry.register_lr_scheduler("linear_warmup_step_lr")
@dataclass
class LinearWarmupStepLRScheduler(_Warmup):
    """Linear warm-up, then a constant factor for each epoch."""

    optimizer: Optimizer
    max_epoch: int
    """Not used: the two schedules take the same arguments."""
    min_lr: float
    """The rate does not go below this."""
    init_lr: float
    """Rate of epoch 0 after the warm-up."""
    decay_rate: float = 1.0
    """Factor for each epoch."""
    warmup_start_lr: float = -1.0
    """Rate at step 0 of the warm-up."""
    warmup_steps: int = 0
    """Steps of the warm-up."""
    iters_per_epoch: int | None = None
    """Steps of an epoch; without it the warm-up ends with the first epoch."""

    def after_warmup(self, epoch: int, step: int) -> None:
        """Set the rate for a step of the whole training."""
        step_lr_schedule(self.optimizer, epoch, self.init_lr, self.min_lr, self.decay_rate)


# Optimizers


def takes_weight_decay(name: str, parameter: Tensor) -> bool:
    """Tell whether the reference decays a parameter: by dimensions, and by what its name contains."""
    return parameter.ndim >= 2 and not any(part in name for part in ("bias", "ln", "bn"))


def param_groups(
    model: nn.Module,
    weight_decay: float,
    layer_decay: float = 1.0,
    part_scales: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups: with weight decay, and without.

    A `layer_decay` below 1 adds groups for the layers of `Layered` parts (the vision encoder): each layer
    learns slower than the one after it by this factor, which its groups carry as "lr_scale" and the
    schedules heed. Source: LAVIS' ``Blip2Base.get_optimizer_params``. `part_scales` are further factors: of
    children of the model, and of "adapter".

    Order within a group is that of `named_parameters`, so that optimizer states travel between the
    reference's checkpoints and ours.
    """
    scales = _lr_scales(model, layer_decay) if layer_decay < 1.0 else {}
    parts = part_scales or {}
    found: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = scales.get(name, 1.0) * parts.get(_part(name), 1.0)
            kind = (scale, takes_weight_decay(name, parameter))
            found.setdefault(kind, []).append(parameter)
    groups = []
    for (scale, decays), parameters in found.items():
        group: dict[str, Any] = {"params": parameters, "weight_decay": weight_decay if decays else 0.0}
        groups.append(group if scale == 1.0 else group | {"lr_scale": scale})
    return groups


def _part(name: str) -> str:
    """Return what `RunConfig.learning_rates` calls the part that a parameter belongs to."""
    return "adapter" if ADAPTER_KEY in name else name.partition(".")[0]


def _lr_scales(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """The factor of the learning rate for each parameter of a `Layered` part, by its full name."""
    scales: dict[str, float] = {}
    for prefix, part in model.named_modules():
        parameters = part.named_parameters
        if isinstance(part, Layered):
            for name, _ in parameters():
                scales[f"{prefix}.{name}".lstrip(".")] = layer_decay ** part.layers_to_output(name)
    return scales


def build_optimizer(model: nn.Module, run_cfg: RunConfig) -> Optimizer:
    """Return the optimizer that `run.optimizer` names, over the trainable parameters of `model`.

    Raises:
        ValueError: no parameter is trainable.
        ConfigError: `run.learning_rates` names a part that is not trained.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    parts = {_part(name) for name in trained}
    rates = {part: rate for part, rate in run_cfg.learning_rates.items() if rate is not None}
    if unknown := sorted(set(rates) - parts):
        raise ConfigError(
            f"run.learning_rates: {', '.join(unknown)}: no part that is trained; these are: "
            f"{', '.join(sorted(parts))}"
        )
    scales = {part: rate / run_cfg.init_lr for part, rate in rates.items()}
    groups = param_groups(model, run_cfg.weight_decay, run_cfg.lr_layer_decay, scales)
    if not any(group["params"] for group in groups):
        raise ValueError("the model has no trainable parameter: everything is frozen")
    betas = (0.9, run_cfg.beta2)
    if run_cfg.optimizer == "adamw":
        return AdamW(groups, lr=run_cfg.init_lr, betas=betas, weight_decay=run_cfg.weight_decay)
    hidden = hidden_weights(model)
    hidden_ids = {id(p) for p in hidden}
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in hidden_ids]
    return MuonAdamW(hidden, groups, lr=run_cfg.init_lr, betas=betas, weight_decay=run_cfg.weight_decay)


def hidden_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the trainable weights of linear layers that lie between hidden layers.

    Left out are output layers over a vocabulary, tied to the embedding or not.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    hidden: dict[int, nn.Parameter] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or name.rpartition(".")[2] in OUTPUT_LAYERS:
            continue
        if module.weight.requires_grad and id(module.weight) not in embeddings:
            hidden[id(module.weight)] = cast(nn.Parameter, module.weight)
    return list(hidden.values())


class MuonAdamW(Optimizer):
    """Muon for hidden 2-D weights and AdamW for everything else, behind one optimizer's face.

    Muon's updates are scaled to the size of AdamW's (`match_rms_adamw`), so that one learning rate and one
    schedule serve both. Source: K. Jordan et al., Muon (2024); J. Liu et al., Muon is scalable (2025).

    Args:
        hidden: 2-D parameters for Muon.
        adamw_groups: parameter groups of AdamW, each with its weight decay.
        lr: learning rate of both.
        betas: AdamW's.
        weight_decay: Muon's; the other groups have their own.
    """

    def __init__(
        self,
        hidden: list[nn.Parameter],
        adamw_groups: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        self.parts: dict[str, Optimizer] = {}
        if hidden:
            self.parts["muon"] = Muon(
                hidden, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        if any(group["params"] for group in adamw_groups):
            self.parts["adamw"] = AdamW(adamw_groups, lr=lr, betas=betas)
        super().__init__([group for part in self.parts.values() for group in part.param_groups], {})
        self.share_groups()

    def share_groups(self) -> None:
        """Make this object's groups the parts' own, so that a rate set here is the one they use."""
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters from their gradients; `closure`, if given, computes the loss first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts.values():
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both parts, by name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: the state is of another optimizer, or of other parameters.
        """
        if set(state_dict) != set(self.parts):
            raise ValueError(
                f"the optimizer state has the parts {sorted(state_dict)}, expected {sorted(self.parts)}"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self.share_groups()
