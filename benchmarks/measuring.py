"""Ways of doing the same thing, measured in turns within one process, and the table of what was found.

All ways see the same machine, whatever else it does meanwhile: each round runs every way once, and ratios are
medians of ratios within a round. The matrix product that gives the ceiling takes its turn like a way.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from xraygpt.common.precision import DTYPES, Precision, resolve_device, resolve_precision
from xraygpt.doctor.machine import device_name, matrix_product, resident_bytes, timed

LONGEST_PRODUCT = 1.0
"""Seconds of matrix products in a round, at most."""


@dataclass(frozen=True)
class Way:
    """One way of doing the work."""

    name: str
    run: Callable[[], object]
    images: int
    """Images that one run takes in."""
    tokens: int
    """Tokens that one run learns or writes."""


@dataclass(frozen=True)
class Measured:
    """What was found of a way."""

    name: str
    images: int
    tokens: int
    seconds: list[float]
    """Of each round."""
    flop: int
    """Operations of matrix products, convolutions and attention in one run, counted."""
    peak_bytes: int | None
    """Memory beside weights, see `PeakMemory`."""

    @property
    def median(self) -> float:
        """Seconds of one run."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles of the rounds, as a part of the median."""
        if len(self.seconds) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (third - first) / 2 / self.median

    def ratio(self, base: Measured) -> float:
        """How many times as many images a second as `base`: the median over the rounds."""
        pairs = zip(base.seconds, self.seconds, strict=True)
        return statistics.median((theirs / base.images) / (own / self.images) for theirs, own in pairs)


@dataclass(frozen=True)
class Results:
    """All ways of one comparison, the ceiling among them."""

    title: str
    ways: list[Measured]
    ceiling: Measured
    device: str
    precision: str

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain values, the first way being what ratios refer to."""
        ceiling = self.ceiling.flop / self.ceiling.median
        rows = [
            {
                "name": way.name,
                "images": way.images,
                "seconds": way.median,
                "spread": way.spread,
                "images_per_second": way.images / way.median,
                "tokens_per_second": way.tokens / way.median,
                "ratio": way.ratio(self.ways[0]),
                "flop": way.flop,
                "share_of_ceiling": way.flop / way.median / ceiling,
                "peak_bytes": way.peak_bytes,
                "rounds": way.seconds,
            }
            for way in self.ways
        ]
        return {
            "title": self.title,
            "device": self.device,
            "precision": self.precision,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "matrix_flop_per_second": ceiling,
            "ways": rows,
        }

    def table(self) -> str:
        """Return the figures as Markdown."""
        found = self.as_dict()
        ceiling = found["matrix_flop_per_second"]
        rounds = len(self.ceiling.seconds)
        lines = [
            f"{self.title}: {self.device}, {self.precision}, PyTorch {found['torch']}, transformers "
            f"{found['transformers']}; median of {rounds} rounds; matrix products reach "
            f"{ceiling / 1e9:,.0f} GFLOP/s.\n",
            "| way | images | seconds | images/s | tokens/s | ratio | GFLOP | of the ceiling | step memory |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in found["ways"]:
            peak = row["peak_bytes"]
            memory = "–" if peak is None else f"{peak / 2**20:,.0f} MiB"
            lines.append(
                f"| {row['name']} | {row['images']} | {row['seconds']:.4g} ± {row['spread']:.0%} "
                f"| {row['images_per_second']:.3g} | {row['tokens_per_second']:.3g} | {row['ratio']:.2f}x "
                f"| {row['flop'] / 1e9:,.4g} | {row['share_of_ceiling']:.0%} | {memory} |"
            )
        return "\n".join(lines)


def measure(
    title: str, ways: Sequence[Way], device: torch.device, precision: Precision, rounds: int
) -> Results:
    """Run all ways in turns; the first run of each counts operations, the second one memory."""
    product, product_flop = matrix_product(device, precision.dtype)
    flops = [counted_flop(way.run) for way in ways]
    peaks = [peak_bytes(way.run, device) for way in ways]
    timed(product, device)
    # As long as the shortest way, so that both meet the same share of a machine that others use too.
    shortest = min(timed(way.run, device) for way in ways)
    repeats = max(round(min(shortest, LONGEST_PRODUCT) / timed(product, device)), 1)

    def products() -> None:
        for _ in range(repeats):
            product()

    runs: list[Callable[[], object]] = [products, *(way.run for way in ways)]
    seconds = [[timed(run, device) for run in runs] for _ in range(rounds)]
    of_product, *of_ways = (list(column) for column in zip(*seconds, strict=True))
    return Results(
        title=title,
        ways=[
            Measured(way.name, way.images, way.tokens, times, flop, peak)
            for way, times, flop, peak in zip(ways, of_ways, flops, peaks, strict=True)
        ],
        ceiling=Measured("matrix product", 1, 1, of_product, repeats * product_flop, None),
        device=device_name(device),
        precision=next(name for name, dtype in DTYPES.items() if dtype == precision.dtype),
    )


def counted_flop(run: Callable[[], object]) -> int:
    """Return the operations that a call makes, counted while it runs."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


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


def peak_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """Return the most memory that a call takes beside what is there already."""
    with PeakMemory(device) as peak:
        run()
    return peak.bytes


def add_arguments(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Add what all comparisons have in common."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--precision", default="auto", choices=["auto", *DTYPES], help="number format (default: auto)"
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds measured (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")


def chosen_device(args: argparse.Namespace) -> tuple[torch.device, Precision]:
    """Return the device and the number format that the command line asks for."""
    device = resolve_device(args.device)
    return device, resolve_precision(args.precision, None, device)


def report(results: Sequence[Results], file: Path | None) -> None:
    """Print the tables, and write the figures to a file if there is to be one."""
    print("\n\n".join(each.table() for each in results))
    if file is not None:
        file.write_text(json.dumps([each.as_dict() for each in results], indent=2) + "\n", encoding="utf-8")
