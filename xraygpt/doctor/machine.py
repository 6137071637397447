"""What this machine can do: rates that arithmetic and memory reach on it, and how much memory it has."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

GIB = 2**30
MATRIX_SIDES = {"cpu": 1024, "cuda": 8192}
"""Side of the square matrices whose product gives the ceiling; larger ones give no more."""
COPIED_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}
"""Size of the tensor whose copy gives the bandwidth; larger than the caches."""


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


Clock = Callable[[], float]
"""Tells seconds: `time.perf_counter`, or on a CPU that others use too `time.process_time`."""


def timed(run: Callable[[], object], device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Return the seconds that a call takes, the work that it leaves to a GPU included."""
    synchronize(device)
    start = clock()
    run()
    synchronize(device)
    return clock() - start


class MatrixProduct:
    """A large square matrix product: the ceiling of what a model of matrix products can reach.

    Args:
        dtype: of the factors; float32 products run as this process is set to run them (TF32 or not).
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.side = MATRIX_SIDES.get(device.type, MATRIX_SIDES["cpu"])
        self.flop = 2 * self.side**3
        self._left, self._right = torch.randn(2, self.side, self.side, device=device).to(dtype).unbind()

    def __call__(self) -> object:
        """Compute the product once, `flop` operations."""
        return self._left @ self._right


def matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Return the operations a second of `MatrixProduct`, the best of some runs."""
    product = MatrixProduct(device, dtype)
    product()
    return product.flop / min(timed(product, device) for _ in range(repeats))


def copy_rate(device: torch.device, repeats: int = 5) -> float:
    """Return the bytes a second that are read and written while a large tensor is copied."""
    source = torch.ones(COPIED_BYTES.get(device.type, COPIED_BYTES["cpu"]) // 4, device=device)
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


class PeakMemory:
    """The most memory that what runs inside ``with`` takes beside what was there before, such as weights.

    On a GPU it is that of PyTorch's tensors, on the CPU what the process grows by; None where the system does
    not tell (only Linux does).
    """

    bytes: int | None = None

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = int(torch.cuda.memory_allocated(self.device))
        else:
            release_free_memory()
            self._before = resident_bytes()
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            self.bytes = int(torch.cuda.max_memory_allocated(self.device)) - self._before
        elif sys.platform == "linux":
            status = Path("/proc/self/status").read_text().splitlines()
            peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
            self.bytes = peak - self._before


def release_free_memory() -> None:
    """Give memory that was freed back to the system, where its C library can be asked to."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
