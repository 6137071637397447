"""How long the operations of a step take on this machine: each kind is run, for a few seconds in all."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from transformers import LlamaConfig, LlamaForCausalLM

from xraygpt.doctor.dry_run import Call, DryRun, Step, TensorSpec
from xraygpt.doctor.machine import Clock, copy_rate, matrix_rate, timed

REPEATS = 5
"""Most runs of an operation; the first one is not counted."""
OVERHEAD_LAYERS, OVERHEAD_WIDTH, OVERHEAD_STEPS = 4, 8, 7
"""Of the small model that tells how long Python takes between two operations."""
LONG = 0.1
"""Seconds after which one run of an operation is enough."""
FLUSHED_BYTES = {"cpu": 4 << 20, "cuda": 64 << 20}
"""What is written between two runs of an operation: a step finds its operands in the outer caches at most."""


@dataclass
class Rates:
    """What this machine reaches."""

    copy: float
    """Bytes a second, read and written, of a large copy."""
    matrix: dict[torch.dtype, float] = field(default_factory=dict)
    """Operations a second of a large matrix product, by number format."""

    def arithmetic(self, call: Call) -> float:
        """Return the seconds that the arithmetic of an operation takes at these rates; 0 without any."""
        return call.flop / self.matrix[call.dtype] if call.flop else 0.0

    def seconds(self, call: Call) -> float:
        """Return the seconds that an operation takes at these rates."""
        return max(self.arithmetic(call), call.nbytes / self.copy)


@dataclass(frozen=True)
class Durations:
    """Seconds of a step on this machine."""

    parts: dict[str, float]
    """Seconds of each part of the model."""
    ideal: dict[str, float]
    """Seconds that the arithmetic of each part would take at the rate of a large matrix product."""
    measured: float
    """Share of the seconds that was measured; the rest is computed from rates."""
    rates: Rates

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return sum(self.parts.values())


class Calibration:
    """What is known of the speed of a device; whatever is measured is measured once.

    Args:
        clock: measures the operations.
    """

    def __init__(self, device: torch.device, clock: Clock = time.perf_counter) -> None:
        self.device, self.clock = device, clock
        self.rates = Rates(copy_rate(device))
        self._seconds: dict[Call, float | None] = {}
        self._cache = torch.ones(FLUSHED_BYTES[device.type] // 4, device=device)

    def measure(self, step: Step, budget: float) -> Durations:
        """Return how long a step takes, from running its operations one by one with random numbers.

        The longest kinds are run first; what is left when the time is up is computed from the device's rates.

        Args:
            budget: seconds that this may take, about.
        """
        rates, seconds = self.rates, self._seconds
        times: Counter[Call] = Counter()
        for (_, call), number in step.calls.items():
            times[call] += number
        for dtype in sorted({call.dtype for call in times if call.flop} - set(rates.matrix), key=str):
            rates.matrix[dtype] = matrix_rate(self.device, dtype)
        between = self.overhead if self.device.type == "cpu" and budget > 0 else 0.0
        end = time.perf_counter() + budget
        for call in sorted(times, key=lambda call: rates.seconds(call) * times[call], reverse=True):
            if call not in seconds and time.perf_counter() + 2 * rates.seconds(call) < end:
                seconds[call] = run_alone(call, self.device, self._cache.zero_, self.clock)
        parts: dict[str, float] = defaultdict(float)
        ideal: dict[str, float] = defaultdict(float)
        known = 0.0
        for (part, call), number in step.calls.items():
            alone = seconds.get(call)
            all_of_them = number * ((rates.seconds(call) if alone is None else alone) + between)
            parts[part] += all_of_them
            ideal[part] += number * rates.arithmetic(call)
            known += all_of_them if alone is not None else 0.0
        total = sum(parts.values())
        return Durations(dict(parts), dict(ideal), known / total if total else 1.0, rates)

    @cached_property
    def overhead(self) -> float:
        """Seconds that a step takes for each operation beside the operation itself: for the Python of modules
        and the graph of the backward pass.

        Found with a language model so small that its operations take next to no time: what a step of it
        takes longer than its operations one by one. On a GPU, which computes meanwhile, this is nothing to
        wait for.
        """
        width, cpu = OVERHEAD_WIDTH, torch.device("cpu")
        config = LlamaConfig(
            hidden_size=width,
            intermediate_size=width,
            num_attention_heads=1,
            num_hidden_layers=OVERHEAD_LAYERS,
            vocab_size=width,
        )

        def build() -> Callable[[], None]:
            model = LlamaForCausalLM._from_config(config).requires_grad_(False)
            embeds = torch.zeros(1, width, width, requires_grad=True)
            return lambda: model(inputs_embeds=embeds, use_cache=False).logits.sum().backward()

        dry = DryRun(cpu)
        with dry:
            run = build()
            with dry.recording(torch.nn.Module()) as step:
                run()
        run = build()
        whole = statistics.median(timed(run, cpu, self.clock) for _ in range(OVERHEAD_STEPS))
        alone = sum(
            (run_alone(call, cpu, lambda: None, self.clock) or 0.0) * number
            for (_, call), number in step.calls.items()
        )
        return max(whole - alone, 0.0) / sum(step.calls.values())


def run_alone(
    call: Call, device: torch.device, flush: Callable[[], object], clock: Clock = time.perf_counter
) -> float | None:
    """Return the seconds of one operation; None if it cannot be run by itself.

    Args:
        flush: called before each run, to drive out of the caches what a step would not find there.
    """
    try:
        args, kwargs = (
            tree_map_only(TensorSpec, partial(_filled, device=device), each)
            for each in (call.arguments, dict(call.named))
        )
        args = tuple(list(arg) if isinstance(arg, tuple) else arg for arg in args)

        def seconds() -> float:
            flush()
            return timed(lambda: call.function(*args, **kwargs), device, clock)

        with torch.no_grad():
            first = seconds()
            runs = [seconds() for _ in range(REPEATS - 1 if first < LONG else 1)]
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
        return None  # e.g. an operation that needs what an earlier one has left behind
    return statistics.median(runs)


def _filled(spec: TensorSpec, device: torch.device) -> Tensor:
    if spec.content is not None:
        content: Tensor = spec.content.to(device)
        return content
    tensor = torch.empty_strided(spec.shape, spec.stride, dtype=spec.dtype, device=device)
    # All that lies there, since elements of an expanded tensor share their place and cannot be set.
    flat = torch.empty(0, dtype=spec.dtype, device=device).set_(tensor.untyped_storage())
    flat.uniform_(-1, 1) if spec.dtype.is_floating_point else flat.zero_()
    return tensor
