"""The one place that decides on which device and in which number format a model runs."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from xraygpt.common.errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """Number format of the forward pass; what is trained, norms and the loss are float32 in any case."""

    dtype: torch.dtype
    """torch.float32, torch.bfloat16 or torch.float16."""
    device_type: str
    """"cpu" or "cuda"."""

    @property
    def needs_scaler(self) -> bool:
        """float16 gradients underflow unless the loss is scaled (``torch.amp.GradScaler``)."""
        return self.dtype is torch.float16

    def autocast(self) -> AbstractContextManager[object]:
        """Return a new context in which a forward pass runs in this format."""
        if self.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device that `run.device` asks for.

    Args:
        name: "auto" (a GPU if there is one), "cpu", "cuda" (the GPU numbered `local_rank`) or "cuda:N".
        local_rank: number of this process among those on this machine.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"run.device: '{name}' is not a device; use auto, cpu, cuda or cuda:N") from error
    if device.type != "cuda":
        return device
    index = local_rank if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"run.device: '{name}' asks for GPU {index}, and PyTorch sees {torch.cuda.device_count()} "
            "here; set run.device to cpu or auto, or start fewer processes"
        )
    return torch.device("cuda", index)


def resolve_precision(precision: str, amp: bool | None, device: torch.device) -> Precision:
    """Decide the number format from `run.precision`, `run.amp` and the device.

    "auto" means bf16 on a GPU that has it (unless `amp` is false), fp16 on one that has not if `amp` is
    true, and fp32 everywhere else, the CPU included.

    Raises:
        ConfigError: `precision` is not one of auto, fp32, bf16, fp16.
    """
    if precision == "auto":
        if device.type != "cuda" or amp is False:
            precision = "fp32"
        elif _has_bf16():
            precision = "bf16"
        else:
            precision = "fp16" if amp else "fp32"
    if precision not in DTYPES:
        raise ConfigError(f"run.precision: expected one of auto, {', '.join(DTYPES)}, got '{precision}'")
    return Precision(dtype=DTYPES[precision], device_type=device.type)


def frozen_dtype(precision: str, device: str | torch.device) -> torch.dtype:
    """Decide the number format in which a language model that is not trained is held.

    "auto" means float32 on the CPU, bfloat16 on a GPU that has it and float16 on one that has not.
    """
    if precision != "auto":
        return DTYPES[precision]
    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if _has_bf16() else torch.float16


def vision_precision(precision: str, device: str | torch.device) -> str:
    """Decide the number format of a frozen vision encoder: what is asked for on a GPU, else fp32.

    Configurations ask for fp16, as the reference does, which the CPU computes slowly and in part not at all.
    """
    return precision if torch.device(device).type == "cuda" else "fp32"


def _has_bf16() -> bool:
    # Emulated bf16 (GPUs before Ampere) is slower than fp32.
    return torch.cuda.is_bf16_supported(including_emulation=False)
