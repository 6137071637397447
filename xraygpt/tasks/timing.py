"""Where the time of a training goes, from one line of the log to the next, and a trace of some steps."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from xraygpt.common.dist_utils import get_world_size
from xraygpt.common.logger import MetricsWriter

TRACE_FILE = "trace.json"
UNTRACED = 5
"""Steps before a trace begins, the last of which warms the profiler up."""
SHOWN = 0.01
"""Phases that take less than this share of the time are left out of the log's line."""

Moment = float | torch.cuda.Event

logger = logging.getLogger(__name__)


class StepTrace:
    """A trace of training steps by PyTorch's profiler, in Chrome's format (ui.perfetto.dev shows it).

    Args:
        path: the file, written when all steps are done, or with those that are when the training ends.
        steps: how many, after the first `UNTRACED`.
    """

    def __init__(self, path: Path, steps: int, device: torch.device) -> None:
        self.path = path
        self.steps = steps
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        plan = schedule(wait=UNTRACED - 1, warmup=1, active=steps, repeat=1)
        self._profile = profile(activities=activities, schedule=plan, on_trace_ready=self._write)
        self._profile.start()
        self._written = False

    def end_step(self) -> None:
        """Take note that a step has ended."""
        self._profile.step()

    def close(self) -> None:
        """Stop tracing."""
        self._profile.stop()
        if not self._written:
            logger.warning("no trace: the training ended within its first %d steps", UNTRACED)

    def _write(self, finished: profile) -> None:
        finished.export_chrome_trace(str(self.path))
        self._written = True
        logger.info("trace of %d training steps: %s", self.steps, self.path)


class IntervalTimer:
    """What a training spends its time on, and how fast it is, from one line of the log to the next.

    On CUDA the times are the device's: events in its queue, read at the end of the interval, so that
    measuring makes nothing wait. "data" is then how long the device stood idle for want of a batch, however
    long the loop waited while it was still busy.

    As text: the figures of the last interval with any step.

    Args:
        writer: gets a line with the event ``interval`` for each.
        last_step: at which the training ends, for the time left.
        iters_per_epoch: in the last epoch, the text leaves the time left to the epoch's own line.
        trace: told of each step.
    """

    def __init__(
        self,
        device: torch.device,
        writer: MetricsWriter | None = None,
        last_step: int = 0,
        iters_per_epoch: int = 1,
        trace: StepTrace | None = None,
    ) -> None:
        self.device = device
        self.writer = writer
        self.last_step = last_step
        self.iters_per_epoch = iters_per_epoch
        self.trace = trace
        self._text = ""
        self._all_steps, self._begun = 0, time.perf_counter()
        self._start_interval(self._now())

    def _start_interval(self, now: Moment) -> None:
        self._start = now
        self._spans: list[tuple[str, Moment, Moment]] = []
        self._steps = self._images = self._positions = self._padded = 0
        self._tokens = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block, which holds no other phase, as that of `name`."""
        start = self._now()
        with record_function(name):
            yield
        self._spans.append((name, start, self._now()))

    def end_step(self, images: int, positions: int = 0, padded: int = 0) -> None:
        """Take note of a step, in which each process had so many images.

        Args:
            positions: in the rows of the language model, in this process; 0 if it does not say.
            padded: how many of these are padding.
        """
        self._steps += 1
        self._all_steps += 1
        self._images += images * get_world_size()
        self._positions += positions
        self._padded += padded
        if self.trace is not None:
            self.trace.end_step()

    def count_tokens(self, number: float) -> None:
        """Take note of target tokens, of all processes."""
        self._tokens += number

    def end_interval(self, step: int, epoch: int) -> dict[str, Any]:
        """Wait for the device; return, and write, the times since the last call, in seconds.

        Returns:
            ``steps``, ``seconds`` and ``time``, {phase: seconds} with the rest as "rest". After any step also
            ``images_per_second``, ``memory_gib`` (highest so far), ``seconds_left``; ``tokens_per_second``
            and the share of ``padding`` among the positions of the language model, if the model tells them.
        """
        end = self._now()
        if isinstance(end, torch.cuda.Event):
            end.synchronize()
        seconds = _seconds(self._start, end)
        phases: dict[str, float] = {}
        for name, *moments in self._spans:
            phases[name] = phases.get(name, 0.0) + _seconds(*moments)
        phases["rest"] = seconds - sum(phases.values())
        record: dict[str, Any] = {"event": "interval", "step": step, "epoch": epoch, "steps": self._steps}
        record |= {"seconds": seconds, "time": phases}
        if self._steps:
            record["images_per_second"] = self._images / seconds
            if self._tokens:
                record["tokens_per_second"] = self._tokens / seconds
            if self._positions:
                record["padding"] = self._padded / self._positions
            record["memory_gib"] = self._memory() / 2**30
            mean = (time.perf_counter() - self._begun) / self._all_steps
            steps_left = max(self.last_step - step, 0)
            record["seconds_left"] = mean * steps_left
            self._text = _describe(record)
            if steps_left > -step % self.iters_per_epoch:
                self._text += f"  about {record['seconds_left']:.0f} s left in all"
        if self.writer is not None:
            self.writer.write(_rounded(record))
        self._start_interval(end)
        return record

    def _now(self) -> Moment:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _memory(self) -> float:
        """Return the most bytes in use so far, of the GPU or else of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def __str__(self) -> str:
        return self._text


def _seconds(start: Moment, end: Moment) -> float:
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return start.elapsed_time(end) / 1000
    return cast(float, end) - cast(float, start)


def _describe(record: dict[str, Any]) -> str:
    parts = [f"{record['images_per_second']:.3g} images/s"]
    if "tokens_per_second" in record:
        parts.append(f"{record['tokens_per_second']:.3g} tokens/s")
    if "padding" in record:
        parts.append(f"padding {record['padding']:.0%}")
    return "  ".join([*parts, f"{record['memory_gib']:.1f} GiB", shares(record)])


def shares(record: dict[str, Any]) -> str:
    """Return the shares of the phases in an interval's time, as text."""
    parts = {name: value / record["seconds"] for name, value in record["time"].items()}
    return ", ".join(f"{name} {share:.0%}" for name, share in parts.items() if share >= SHOWN)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value
