"""What this machine can do: rates that arithmetic and memory reach on it, and how much memory it has."""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

MATRIX_SIDES = {"cpu": 1024, "cuda": 8192}
"""Side of the square matrices whose product gives the ceiling; larger ones give no more."""
COPIED_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}
"""Size of the tensor whose copy gives the bandwidth; larger than the caches."""


Clock = Callable[[], float]
"""Tells seconds: `time.perf_counter`, or on a CPU that others use too `time.process_time`."""


def timed(run: Callable[[], object], device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Return the seconds that a call takes, the work that it leaves to a GPU included."""
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    wait()
    start = clock()
    run()
    wait()
    return clock() - start


def matrix_product(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], object], int]:
    """Return a large square matrix product, the ceiling of what a model can reach, and its operations.

    Args:
        dtype: of the factors; float32 products run as this process is set to run them (TF32 or not).
    """
    side = MATRIX_SIDES[device.type]
    left, right = torch.randn(2, side, side, device=device).to(dtype).unbind()
    return lambda: left @ right, 2 * side**3


def matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Return the operations a second of `matrix_product`, the best of some runs."""
    product, flop = matrix_product(device, dtype)
    product()
    return flop / min(timed(product, device) for _ in range(repeats))


def copy_rate(device: torch.device, repeats: int = 5) -> float:
    """Return the bytes a second that are read and written while a large tensor is copied."""
    source = torch.ones(COPIED_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = statistics.median(timed(lambda: target.copy_(source), device) for _ in range(repeats))
    return 2 * 4 * source.numel() / seconds


def resident_bytes() -> int:
    """Return the memory that this process holds now; its peak where the system does not say."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def total_memory(device: torch.device) -> int:
    """Return the memory of a GPU, or of the machine (of its control group, if that has less), in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # another kind of control group, or "max"
            total = min(total, int(Path(limit).read_text()))
    return total


def device_name(device: torch.device) -> str:
    """Return what a person calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    return f"{names[0] if names else 'CPU'}, {threads} thread{'s' if threads > 1 else ''}"
