from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.toy import SIDE, ToyModel
from xraygpt.common.errors import NonFiniteLossError
from xraygpt.common.logger import MetricsWriter
from xraygpt.common.precision import Precision
from xraygpt.common.run_config import RunConfig
from xraygpt.datasets.batch import Batch
from xraygpt.tasks import EvalContext, ImageTextPretrainTask, ReportGenerationTask, TrainContext
from xraygpt.tasks.report_generation import ReportGenerationConfig
from xraygpt.tasks.steps import StepLog
from xraygpt.tasks.timing import IntervalTimer

CPU = torch.device("cpu")
FP32 = Precision(torch.float32, "cpu")


class ConstantRate:
    """Leaves the learning rate alone and notes when it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def step(self, cur_epoch: int, cur_step: int) -> None:
        self.asked.append((cur_epoch, cur_step))


def batches(count: int, size: int, seed: int = 0) -> list[Batch]:
    """Batches whose reports all have the same weight, so that means over batches are means over samples."""
    g = torch.Generator().manual_seed(seed)
    return [
        {
            "image": torch.randn(size, 3, SIDE, SIDE, generator=g),
            "caption": ["value 4"] * size,
            "image_id": [f"b{number}s{i}" for i in range(size)],
            "prompt": "",
        }
        for number in range(count)
    ]


def joined(parts: list[Batch]) -> Batch:
    return {
        "image": torch.cat([part["image"] for part in parts]),
        "caption": [text for part in parts for text in part["caption"]],
        "image_id": [name for part in parts for name in part["image_id"]],
        "prompt": "",
    }


@dataclass
class Trained:
    model: ToyModel
    means: dict[str, float]
    updates: list[tuple[int, int]]
    rate: ConstantRate


def train(data: list[Batch], epoch: int = 0, model: ToyModel | None = None, **settings: Any) -> Trained:
    torch.manual_seed(0)
    model = model or ToyModel()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    updates: list[tuple[int, int]] = []
    rate = ConstantRate()
    context = TrainContext(
        model,
        optimizer,
        rate,
        CPU,
        FP32,
        seed=0,
        iters_per_epoch=len(data),
        **{"on_update": lambda before, after, check: updates.append((before, after)), **settings},
    )
    source: Iterator[Batch] = iter(data)
    means = ImageTextPretrainTask().train_epoch(epoch, source, context)
    return Trained(model, means, updates, rate)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_accumulation_equals_the_big_batch() -> None:
    small = batches(4, 3)
    accumulated = train(small, accum_grad_iters=2)
    big = train([joined(small[:2]), joined(small[2:])])
    torch.testing.assert_close(weights(accumulated.model), weights(big.model), rtol=0, atol=1e-6)
    assert accumulated.updates == [(0, 2), (2, 4)]


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_every_target_of_a_step_counts_the_same(scale: float | None) -> None:
    """The toy model's loss is a mean over targets, of which "value 9" has ten and "value 0" one."""
    small = batches(5, 3)
    for batch, value in zip(small, (9, 0, 4, 0, 7), strict=True):
        batch["caption"] = [f"value {value}"] * 3
    scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale else None
    accumulated = train(small, accum_grad_iters=3, scaler=scaler, grad_clip=0.05)
    big = train([joined(small[:3]), joined(small[3:])], grad_clip=0.05)
    # Sums of 15 terms in float32, in another order.
    torch.testing.assert_close(weights(accumulated.model), weights(big.model), rtol=1e-5, atol=1e-6)


def test_batches_of_a_model_that_names_no_targets_count_by_their_images() -> None:
    class Silent(ToyModel):
        def forward(self, samples: Any) -> dict[str, torch.Tensor]:
            return {"loss": super().forward(samples)["loss"]}

    torch.manual_seed(0)
    ours, theirs = Silent(), Silent()
    theirs.load_state_dict(ours.state_dict())
    small = [*batches(1, 4), *batches(1, 1, seed=1)]
    accumulated = train(small, accum_grad_iters=2, model=ours)
    big = train([joined(small)], model=theirs)
    torch.testing.assert_close(weights(accumulated.model), weights(big.model), rtol=1e-5, atol=1e-6)


def test_unfinished_accumulation_is_used_in_its_epoch() -> None:
    small = batches(3, 3)
    accumulated = train(small, accum_grad_iters=2)
    big = train([joined(small[:2]), small[2]])
    torch.testing.assert_close(weights(accumulated.model), weights(big.model), rtol=0, atol=1e-6)
    assert accumulated.updates == [(0, 2), (2, 3)]


def test_gradient_is_clipped_to_the_norm() -> None:
    torch.manual_seed(0)
    before = weights(ToyModel())
    step = weights(train(batches(1, 4), grad_clip=0.01).model) - before
    assert float(step.norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_only_what_is_trainable_changes() -> None:
    torch.manual_seed(0)
    fresh, model = ToyModel(), train(batches(2, 4)).model
    assert torch.equal(fresh.frozen.weight, model.frozen.weight)
    assert not torch.equal(fresh.head.weight, model.head.weight)


@pytest.mark.parametrize("scale", [None, 128.0])
def test_loss_scaling_changes_neither_step_nor_clipping(scale: float | None) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale else None
    result = train(batches(2, 4), scaler=scaler, grad_clip=0.02)
    reference = train(batches(2, 4), grad_clip=0.02)
    torch.testing.assert_close(weights(result.model), weights(reference.model), rtol=1e-5, atol=1e-7)


def test_every_step_is_recorded_with_its_losses_and_rate(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    result = train(batches(3, 2), epoch=2, writer=writer, log_freq=100, grad_clip=5.0)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [7, 8, 9]
    assert {line["epoch"] for line in lines} == {2}
    assert all(line["lr"] == 0.1 and line["grad_norm"] > 0 for line in lines)
    assert all(line["loss_half"] == pytest.approx(line["loss"] / 2) for line in lines)
    assert result.means["loss"] == pytest.approx(sum(line["loss"] for line in lines) / 3)
    assert result.rate.asked == [(2, 0), (2, 1), (2, 2)]


def test_every_interval_of_the_log_is_timed(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    timer = IntervalTimer(CPU, writer, last_step=5)
    train(batches(5, 2), writer=writer, timer=timer, log_freq=2)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2, 3, 4, 4, 5, 5]
    timed = [line for line in lines if line["event"] == "interval"]
    assert [(line["step"], line["steps"]) for line in timed] == [(2, 2), (4, 2), (5, 1)]
    for line in timed:
        assert list(line["time"]) == ["data", "copy", "forward", "backward", "optimizer", "rest"]
        assert sum(line["time"].values()) == pytest.approx(line["seconds"], abs=1e-3)
        # Each of the toy model's reports counts as five targets.
        assert line["tokens_per_second"] == pytest.approx(5 * line["images_per_second"], rel=1e-2)
    assert timed[-1]["seconds_left"] == 0


def test_dropout_is_a_function_of_the_step() -> None:
    data = batches(3, 4)
    whole = train(data, model=ToyModelWithDropout())
    torch.manual_seed(99)  # another state of the global generator must not matter
    again = train(data, model=ToyModelWithDropout())
    assert torch.equal(weights(whole.model), weights(again.model))


def ToyModelWithDropout() -> ToyModel:
    torch.manual_seed(5)
    return ToyModel(dropout=0.5)


@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
@pytest.mark.parametrize("log_freq", [1, 2, 50])
def test_the_first_step_whose_loss_is_not_finite_is_named(
    tmp_path: Path, damage: float, log_freq: int
) -> None:
    data = batches(3, 2)
    data[1]["image"][0] = damage  # the third batch's loss is NaN, too, through the weights
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    with pytest.raises(NonFiniteLossError, match=r"at step 8; image ids of the batch: b1s0, b1s1\."):
        train(data, epoch=2, writer=writer, log_freq=log_freq)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 7


def test_a_loss_that_is_not_finite_is_named_when_a_later_step_fails_of_it() -> None:
    class Sampling(ToyModel):
        def forward(self, samples: Any) -> dict[str, torch.Tensor]:
            torch.multinomial(self.head.weight.abs(), 1)  # raises RuntimeError for NaN
            return super().forward(samples)

    data = batches(3, 2)
    data[0]["image"][0] = float("nan")
    with pytest.raises(NonFiniteLossError, match="at step 1; image ids of the batch: b0s0, b0s1") as caught:
        train(data, model=Sampling())
    assert "probability tensor" in str(caught.value.__context__)


def test_no_checkpoint_can_be_saved_after_a_loss_that_is_not_finite() -> None:
    data = batches(4, 2)
    data[1]["image"][0] = float("nan")
    seen: list[int] = []

    def save(before: int, after: int, check: Callable[[], None]) -> None:
        check()
        seen.append(after)

    with pytest.raises(NonFiniteLossError, match="at step 2;"):
        train(data, on_update=save)
    assert seen == [1]


class ReadBacks(TorchDispatchMode):
    """Notes what makes the CPU wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.met.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_step_reads_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    fetch = StepLog.fetch
    monkeypatch.setattr(StepLog, "fetch", lambda self, alone=False: fetched.append(len(self._steps)))
    with ReadBacks() as seen:
        train(batches(5, 2), accum_grad_iters=2, grad_clip=1.0, log_freq=3)
    assert seen.met == []
    assert fetched == [3, 5]
    monkeypatch.setattr(StepLog, "fetch", fetch)
    with ReadBacks() as seen:
        float(torch.ones(()))
    assert seen.met  # the mode would have noticed


def test_non_finite_gradient_stops_too() -> None:
    class Steep(ToyModel):
        def forward(self, samples: Any) -> dict[str, torch.Tensor]:
            return {"loss": (self.head.weight - self.head.weight.detach()).sqrt().sum()}  # slope at 0

    torch.manual_seed(0)
    model = Steep()
    with pytest.raises(
        NonFiniteLossError, match=r"gradient is inf at step 1; image ids of the batch: b0s0\."
    ):
        train(batches(1, 1), model=model, grad_clip=1.0)


def context(folder: Path) -> EvalContext:
    return EvalContext(CPU, FP32, seed=0, output_dir=folder)


def test_validation_loss_does_not_depend_on_the_batches(tmp_path: Path) -> None:
    task, model = ImageTextPretrainTask(), ToyModel()
    parts = [*batches(1, 4), *batches(1, 2, seed=1)]
    parts[1]["caption"] = ["value 9", "value 0"]
    rows = task.evaluation(model, parts, context=context(tmp_path))
    metrics = task.after_evaluation(rows, "val", 0, context=context(tmp_path))
    assert metrics["n"] == 6
    assert metrics["loss"] == pytest.approx(float(model(joined(parts))["loss"].detach()), rel=1e-5)
    assert metrics["agg_metrics"] == -metrics["loss"]


def test_reports_are_generated_written_and_scored(tmp_path: Path) -> None:
    cfg = SimpleNamespace(
        run_cfg=RunConfig(),
        task_cfg=ReportGenerationConfig(best_metric="rouge_l"),
        datasets_cfg={"toy": None},
    )
    task = ReportGenerationTask.setup_task(cfg=cfg)
    rows = task.evaluation(ToyModel(), batches(2, 3), context=context(tmp_path))
    metrics = task.after_evaluation(rows, "test", "best", context=context(tmp_path))
    written = [json.loads(line) for line in (tmp_path / "predictions_test.jsonl").read_text().splitlines()]
    assert [row["image_id"] for row in written] == [f"b{b}s{i}" for b in range(2) for i in range(3)]
    assert all(row["reference"] == "value 4" and row["generated"].startswith("value") for row in written)
    assert metrics["agg_metrics"] == metrics["rouge_l"]
    assert metrics["n"] == 6
    assert task.rows == {"test": written}
