from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from xraygpt.common.logger import MetricsWriter
from xraygpt.tasks import timing
from xraygpt.tasks.timing import UNTRACED, IntervalTimer, StepTrace, shares

CPU = torch.device("cpu")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Event:
    """A CUDA event of a device whose clock is set by hand, and which knows a time once it was waited for."""

    clock: Clock
    waited = False

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self, stream: str) -> None:
        assert stream == "current"
        self.at = self.clock.now

    def synchronize(self) -> None:
        Event.waited = True

    def elapsed_time(self, end: Event) -> float:
        assert Event.waited
        return 1000 * (end.at - self.at)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    Event.clock, Event.waited = clock, False
    if request.param == "cuda":
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "current")
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30)
    return torch.device(request.param)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def spend(timer: IntervalTimer, clock: Clock, **phases: float) -> None:
    for name, seconds in phases.items():
        if name == "rest":
            clock.now += seconds
            continue
        with timer.phase(name):
            clock.now += seconds


def test_an_interval_is_split_into_its_phases(device: torch.device, clock: Clock, tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    timer = IntervalTimer(device, writer, last_step=10, iters_per_epoch=5)
    for _ in range(2):
        spend(timer, clock, data=1.0, forward=2.0, rest=0.5, backward=1.5)
        timer.end_step(images=30, positions=100, padded=40)
        timer.count_tokens(75.0)
    record = timer.end_interval(step=2, epoch=0)
    assert record["seconds"] == pytest.approx(10.0)
    assert record["time"] == pytest.approx({"data": 2.0, "forward": 4.0, "backward": 3.0, "rest": 1.0})
    assert record["steps"] == 2
    assert record["images_per_second"] == pytest.approx(6.0)
    assert record["tokens_per_second"] == pytest.approx(15.0)
    assert record["padding"] == pytest.approx(0.4)
    assert record["seconds_left"] == pytest.approx(8 * 5.0)
    assert shares(record) == "data 20%, forward 40%, backward 30%, rest 10%"
    start = "6 images/s  15 tokens/s  padding 40%  "
    end = f" GiB  {shares(record)}  about 40 s left in all"
    assert str(timer).startswith(start)
    assert str(timer).endswith(end)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    written = json.loads(line)
    assert (written["event"], written["step"], written["epoch"]) == ("interval", 2, 0)
    assert written["time"] == pytest.approx(record["time"], abs=1e-4)


def test_the_next_interval_begins_where_the_last_one_ended(device: torch.device, clock: Clock) -> None:
    timer = IntervalTimer(device, last_step=4, iters_per_epoch=4)
    spend(timer, clock, forward=1.0)
    timer.end_step(images=8)
    timer.end_interval(step=1, epoch=0)
    before = str(timer)
    assert "left" not in before  # it is the last epoch
    spend(timer, clock, rest=1.0, validation=3.0)
    record = timer.end_interval(step=1, epoch=0)
    assert record["time"] == pytest.approx({"validation": 3.0, "rest": 1.0})
    assert record["steps"] == 0
    assert not {"images_per_second", "seconds_left", "padding"} & set(record)
    assert str(timer) == before


def test_what_a_model_does_not_tell_is_not_shown(clock: Clock) -> None:
    timer = IntervalTimer(CPU)
    spend(timer, clock, forward=1.0)
    timer.end_step(images=8)
    record: dict[str, Any] = timer.end_interval(step=1, epoch=0)
    assert not {"tokens_per_second", "padding"} & set(record)
    assert not [word for word in ("tokens", "padding", "left") if word in str(timer)]


def traced(path: Path, steps: int, of: int) -> None:
    trace = StepTrace(path, steps, CPU)
    timer = IntervalTimer(CPU, trace=trace)
    for _ in range(of):
        with timer.phase("forward"):
            torch.ones(2)
        timer.end_step(images=1)
    trace.close()


def test_a_trace_holds_the_steps_asked_for(tmp_path: Path) -> None:
    traced(tmp_path / "trace.json", steps=2, of=UNTRACED + 4)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = [event.get("name") for event in events if event.get("cat") in ("user_annotation", "cpu_op")]
    assert names.count("forward") == names.count("aten::ones") == 2


def test_a_training_too_short_for_a_trace_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        traced(tmp_path / "trace.json", steps=2, of=UNTRACED - 1)
    assert "no trace" in caplog.text
    assert not (tmp_path / "trace.json").exists()
