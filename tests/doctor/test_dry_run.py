"""Dry steps compute the shapes, operations and memory of real ones."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import FlopCounterMode

from xraygpt.doctor.calibration import Calibration, run_alone
from xraygpt.doctor.dry_run import OUTSIDE, DryRun, Step

CPU = torch.device("cpu")


class Net(nn.Module):
    """Looks at its whole numbers, as a loss does that skips what is not to be learnt."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.table = nn.Embedding(50, width)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, 50)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.layers(self.table(ids))
        kept = (ids > 9).nonzero().unbind(1)
        assert int((ids > 9).sum()) == len(kept[0])
        return nn.functional.cross_entropy(self.head(hidden[ids > 9]), ids[kept])


def dry_step(rows: int, width: int = 64) -> Step:
    dry = DryRun(CPU)
    with dry:
        net = Net(width)
        with dry.recording(net) as step:
            net(torch.arange(20).repeat(rows, 1)).backward()
    return step


def test_operations_are_those_of_a_real_step() -> None:
    net = Net()
    with FlopCounterMode(display=False) as counter:
        net(torch.arange(20).repeat(3, 1)).backward()
    step = dry_step(3)
    assert sum(step.flop.values()) == counter.get_total_flops()
    assert {part for part, flop in step.flop.items() if flop} == {"layers", "head"}
    assert OUTSIDE in step.flop


def test_the_backward_pass_of_a_part_counts_there() -> None:
    rows, width = 3, 64
    layer = 2 * 20 * rows * width * 4 * width
    head = 2 * 10 * rows * width * 50
    # Forward, gradients of the weights and of the inputs, each as much.
    assert dry_step(rows, width).flop == {"table": 0, "layers": 6 * layer, "head": 3 * head, OUTSIDE: 0}


def test_what_stays_behind_does_not_take_the_backward_pass_of_others() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    dry = DryRun(CPU)
    with dry, dry.recording(net) as step:
        # Nothing is learnt of the inputs, so nothing tells when the first layer's backward pass is over.
        sum(net(torch.rand(2, 8)).sum() for _ in range(2)).backward()
    first, last = 2 * 2 * 8 * 16, 2 * 2 * 16 * 4
    assert step.flop == {"0": 2 * 2 * first, "1": 0, "2": 2 * 3 * last, OUTSIDE: 0}


def test_memory_grows_with_the_batch_and_is_given_back() -> None:
    dry = DryRun(CPU)
    with dry:
        net = Net()
        weights = dry.live_bytes
        assert weights == sum(p.nbytes for p in net.parameters())
        peaks = []
        for rows in (8, 16):
            with dry.recording(net) as step:
                net(torch.arange(20).repeat(rows, 1)).backward()
            net.zero_grad(set_to_none=True)
            peaks.append(step.peak_bytes)
            del step  # holds the whole numbers that operations were called with
        assert dry.live_bytes == weights
    rise, twice = (peak - weights for peak in peaks)
    # At least the two inner activations of each token in float32, and both grow together.
    assert rise > 8 * 20 * 2 * 4 * 64 * 4
    assert 1.5 * rise < twice < 2.5 * rise


def test_whole_numbers_are_real_and_others_are_not() -> None:
    with DryRun(CPU):
        ids, numbers = torch.arange(5), torch.rand(5)
        assert isinstance(numbers, FakeTensor)
        assert not isinstance(ids, FakeTensor)
        assert ids[ids > 2].tolist() == [3, 4]
        assert numbers[ids > 2].shape == (2,)
        assert numbers.sum().item() == 0.0


def test_a_model_of_any_size_takes_no_memory() -> None:
    dry = DryRun(CPU)
    with dry:
        layer = nn.Linear(1 << 20, 1 << 20)
    assert dry.live_bytes == layer.weight.nbytes + layer.bias.nbytes > 1 << 42


def test_operations_can_be_run_alone() -> None:
    step = dry_step(2, width=8)
    seconds = {call.function: run_alone(call, CPU, lambda: None) for _, call in step.calls}
    assert seconds[torch.ops.aten.addmm.default] is not None
    assert [function for function, found in seconds.items() if found is None] == []


@pytest.mark.parametrize("budget", [0.0, 5.0])
def test_every_part_takes_time(budget: float) -> None:
    durations = Calibration(CPU).measure(dry_step(2, width=8), budget)
    assert durations.measured == pytest.approx(1.0 if budget else 0.0)
    assert durations.total == pytest.approx(sum(durations.parts.values()))
    assert all(durations.parts[part] > 0 for part in ("table", "layers", "head"))
    assert durations.ideal["layers"] > durations.ideal["table"] == 0
