"""Several training processes, as torchrun starts them; everything also works in a single process."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, overload

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from xraygpt.common.errors import ConfigError, XrayGPTError
from xraygpt.common.precision import resolve_device
from xraygpt.common.run_config import RunConfig

P = ParamSpec("P")
R = TypeVar("R")

# Rank 0 may score a validation split, or load a large model, while the others wait for it.
TIMEOUT = timedelta(hours=2)
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DistInfo:
    """This process among all of them."""

    rank: int
    """Number of this process, 0 to `world_size` - 1."""
    world_size: int
    """Number of processes."""
    local_rank: int
    """Number of this process among those on the same machine."""
    device: torch.device
    """The device of this process."""


def init_distributed_mode(run_cfg: RunConfig) -> DistInfo:
    """Join the other processes if torchrun started this one; otherwise a world of one.

    NCCL carries GPU tensors, gloo those of the CPU.

    Raises:
        ConfigError: the device does not exist, torchrun's variables are incomplete or contradicted, or there
            is nothing to shard a model over.
    """
    present = [name for name in TORCHRUN_VARIABLES if name in os.environ]
    sharded = run_cfg.parallel.strategy == "fsdp" and not run_cfg.evaluate
    if sharded and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        raise ConfigError(
            "run.parallel.strategy is fsdp, which shards a model over several processes, and this is the "
            "only one; start more (torchrun --nproc-per-node), or set it to ddp"
        )
    if not present:
        return DistInfo(0, 1, 0, resolve_device(run_cfg.device))
    if len(present) < len(TORCHRUN_VARIABLES):
        missing = ", ".join(sorted(set(TORCHRUN_VARIABLES) - set(present)))
        raise ConfigError(f"{', '.join(present)} set in the environment, but not {missing}: use torchrun")
    rank, world_size, local_rank = (int(os.environ[name]) for name in TORCHRUN_VARIABLES)
    if world_size > 1 and not run_cfg.distributed:
        raise ConfigError(f"run.distributed is false, but torchrun started {world_size} processes")
    device = resolve_device(run_cfg.device, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not is_dist_avail_and_initialized():
        dist.init_process_group(
            backend="nccl" if device.type == "cuda" else "gloo",
            init_method=run_cfg.dist_url,
            world_size=world_size,
            rank=rank,
            timeout=TIMEOUT,
        )
    barrier()
    return DistInfo(rank, world_size, local_rank, device)


def is_dist_avail_and_initialized() -> bool:
    """Tell whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def get_rank() -> int:
    """Return the number of this process; 0 without a process group."""
    return dist.get_rank() if is_dist_avail_and_initialized() else 0


def get_world_size() -> int:
    """Return the number of processes; 1 without a process group."""
    return dist.get_world_size() if is_dist_avail_and_initialized() else 1


def get_dist_info() -> tuple[int, int]:
    """Return (rank, number of processes)."""
    return get_rank(), get_world_size()


def is_main_process() -> bool:
    """Tell whether this is process 0, the one that writes files."""
    return get_rank() == 0


def main_process(func: Callable[P, R]) -> Callable[P, R | None]:
    """Make `func` run in process 0 only; elsewhere it returns None."""

    @functools.wraps(func)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R | None:
        return func(*args, **kwargs) if is_main_process() else None

    return wrapper


def barrier() -> None:
    """Wait until all processes are here."""
    if is_dist_avail_and_initialized():
        on_gpu = dist.get_backend() == "nccl"
        dist.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


def in_main_process(work: Callable[[], R]) -> R:
    """Do `work` in process 0 alone; return what it returns, or raise its error, in every process.

    The error has to be one that is meant for people, or the operating system's; any other ends process 0.
    """
    outcome: list[Any] = [None, None]
    if is_main_process():
        try:
            outcome[0] = work()
        except (XrayGPTError, OSError) as error:
            outcome[1] = error
    if is_dist_avail_and_initialized():
        dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    result: R = outcome[0]
    return result


@overload
def all_reduce_mean(value: Tensor) -> Tensor: ...
@overload
def all_reduce_mean(value: float) -> float: ...
def all_reduce_mean(value: Tensor | float) -> Tensor | float:
    """Return the mean over all processes, of the kind given; the argument is not changed."""
    if get_world_size() == 1:
        return value
    if isinstance(value, Tensor):
        total = value.detach().clone()
    else:
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    total /= get_world_size()
    return total if isinstance(value, Tensor) else float(total.item())


def concat_all_gather(tensor: Tensor) -> Tensor:
    """Return the rows of all processes, (B, ...) -> (world * B, ...), without gradient."""
    if not is_dist_avail_and_initialized():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


class GatherLayer(torch.autograd.Function):
    """All-gather that sends the gradient of each process's rows back to that process."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = torch.stack(grads)
        dist.all_reduce(total)
        return total[dist.get_rank()]


def all_gather_with_grad(tensors: Tensor) -> Tensor:
    """Return the rows of all processes, (B, ...) -> (world * B, ...), with gradient."""
    if get_world_size() == 1:
        return tensors
    return torch.cat(GatherLayer.apply(tensors))


def stand_in(like: Tensor, read: Callable[[], Tensor]) -> nn.Parameter:
    """Return a parameter of the size and type of `like`, on the CPU, that takes no memory.

    Args:
        read: gives its values, see `whole`.
    """
    zeros = torch.zeros((), dtype=like.dtype).expand(like.shape)
    parameter = nn.Parameter(zeros, requires_grad=like.requires_grad)
    parameter.read = read  # type: ignore[attr-defined]
    return parameter


def whole(weight: Tensor) -> Tensor:
    """Return all values of a weight: those in its file if it is a `stand_in`, those of all shards if it is
    sharded, for which all processes have to call this."""
    if isinstance(weight, DTensor):
        return weight.full_tensor()
    read: Callable[[], Tensor] | None = getattr(weight, "read", None)
    return weight if read is None else read()


def whole_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's state, of which every process has shards, whole: one tensor after the other, on the
    CPU of process 0, empty in the others. All processes have to call this."""
    found: dict[str, Tensor] = {}
    for name, weight in state.items():
        value = whole(weight.detach())
        if is_main_process():
            found[name] = value.cpu()
    return found


def replace_parameters(module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    """Put others in the place of parameters, given by name; a tied one is replaced wherever it is."""
    owners: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(parameter, []).append((part, name))
    for path, new in parameters.items():
        for part, name in owners[module.get_parameter(path)]:
            setattr(part, name, new)


def sharded_like(like: Tensor, value: Tensor) -> Tensor:
    """Return `value`, which every process holds, in the shards of `like`; as it is if that has none."""
    if not isinstance(like, DTensor):
        return value
    value = value.detach().to(like.dtype)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def cleanup() -> None:
    """Leave the process group, if there is one."""
    if is_dist_avail_and_initialized():
        dist.destroy_process_group()
