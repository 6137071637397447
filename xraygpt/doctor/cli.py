"""``xraygpt doctor``: what a training needs of this machine, as text.

Heavy imports wait until it runs, so --help is quick.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xraygpt.common.run_record import write_json
from xraygpt.common.utils import format_bytes

if TYPE_CHECKING:
    from xraygpt.doctor.examination import Examination


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``xraygpt doctor`` takes beside the configuration."""
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="training processes (default: 1)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=10.0,
        help="time for trying out what this machine does (default: 10)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what a configuration needs; return 1 if something is missing, else 0."""
    from xraygpt.doctor.examination import examine

    found = examine(args, budget=args.seconds, processes=args.processes)
    print(describe(found))
    if args.json is not None:
        write_json(args.json, as_dict(found))
    return 1 if found.problems else 0


def as_dict(found: Examination) -> dict[str, Any]:
    """Return the figures as plain values, those that follow from others included."""
    figures = asdict(found)
    if found.memory is not None and found.durations is not None:
        follow = ("flop", "step_seconds", "run_seconds", "images_per_second")
        figures |= {name: getattr(found, name) for name in follow} | {"peak_bytes": found.memory.peak}
        figures["durations"]["rates"]["matrix"] = {
            str(dtype).removeprefix("torch."): rate for dtype, rate in found.durations.rates.matrix.items()
        }
    return figures


def describe(found: Examination) -> str:
    """Return everything that was found as text."""
    sections = [
        f"{found.configuration} ({found.arch}) on {found.device}, {found.precision}, "
        f"batches of {found.batch}",
        _problems(found),
    ]
    if found.durations is not None:
        sections += [_parts(found), _memory(found), _time(found)]
    return "\n\n".join(sections)


def _problems(found: Examination) -> str:
    lines = [f"- {problem}" for problem in found.problems]
    text = "\n".join(["Missing:", *lines]) if lines else "Missing: nothing"
    return "\n".join([text, *(f"Note: {note}" for note in found.notes)])


def _parts(found: Examination) -> str:
    durations = found.durations
    assert durations is not None
    head = f"{'part':<20}{'parameters':>14}{'trained':>12}{'weights':>11}{'GFLOP':>10}{'seconds':>10}"
    lines = [f"{head}{'share':>7}{'of the ceiling':>16}"]
    for part in found.parts:
        ideal = durations.ideal.get(part.name, 0.0)
        reached = f"{ideal / part.seconds:.0%}" if ideal else "–"
        lines.append(
            f"{part.name:<20}{part.parameters:>14,}{part.trained:>12,}{format_bytes(part.nbytes):>11}"
            f"{part.flop / 1e9:>10,.4g}{part.seconds:>10.4f}"
            f"{part.seconds / durations.total:>7.0%}{reached:>16}"
        )
    ceilings = ", ".join(
        f"{rate / 1e9:,.0f} GFLOP/s in {str(dtype).removeprefix('torch.')}"
        for dtype, rate in durations.rates.matrix.items()
    )
    lines.append(
        f"The ceiling is a large matrix product: {ceilings} here; memory is copied at "
        f"{durations.rates.copy / 1e9:.0f} GB/s.\n{durations.measured:.0%} of the time was measured, "
        "operation by operation; the rest is computed from these rates."
    )
    return "\n".join(lines)


def _memory(found: Examination) -> str:
    memory = found.memory
    assert memory is not None
    text = ", ".join(
        f"{name.replace('program', 'program and data')} {format_bytes(value)}"
        for name, value in asdict(memory).items()
    )
    many = found.largest_batch
    most = f"the largest batch that fits is {many:,}" if many else "not even one image fits"
    peak = format_bytes(memory.peak)
    if found.processes > 1:
        peak += f" a process, {format_bytes(found.processes * memory.peak)} in all"
    lines = [
        f"Memory: {peak} at the peak, with the longest report throughout ({text}).",
        f"There is {format_bytes(found.total_memory)}; {most}.",
    ]
    if found.cache_bytes:
        lines.append(f"Disk: the feature cache needs {format_bytes(found.cache_bytes)}.")
    return "\n".join(lines)


def _time(found: Examination) -> str:
    assert found.durations is not None
    others = [f"{name} {_duration(seconds)}" for name, seconds in found.once.items()]
    others += [f"{name} {_duration(seconds)} an epoch" for name, seconds in found.each_epoch.items()]
    lines = [
        f"Time: {found.step_seconds:.3g} s a step, {_rate(found.images_per_second)} images/s in all; "
        f"{found.steps:,} steps in {found.epochs:,} epoch{'s' if found.epochs > 1 else ''}: "
        f"{_duration(found.run_seconds)}" + (f", of which: {', '.join(others)}." if others else ".")
    ]
    if found.loading is not None:
        images = found.batch / found.loading
        workers = f"{found.num_workers} loading processes" if found.num_workers else "the training process"
        lines.append(
            f"Data: a process loads {_rate(images)} images/s, {workers} on {found.cores} cores; "
            f"the model takes {_rate(found.batch / found.durations.total)} images/s: {found.bottleneck}."
        )
    return "\n".join(lines)


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _duration(seconds: float) -> str:
    unit, name = next(
        (each for each in ((86400, "days"), (3600, "h"), (60, "min")) if seconds >= each[0]), (1, "s")
    )
    return f"{seconds / unit:.2g} {name}" if seconds < 99 * unit else f"{seconds / unit:,.0f} {name}"
