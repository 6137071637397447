"""The comparison of the doctor with what happens: that it compares, and where it has to be exact."""

import time
from pathlib import Path

import pytest

from benchmarks.doctor import compare_size, compare_training

ROOT = Path(__file__).parents[2]


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_operations_expected_are_those_counted() -> None:
    comparison, durations = compare_size("tiny", time.process_time)
    found = cells(comparison)
    assert durations.parts["llama_model"] > 0
    assert found[0] == "tiny, batches of 32"
    assert found[-1] == found[-2]
    assert float(found[-1]) > 1


def test_a_training_is_compared() -> None:
    changes = ["datasets.phantom.splits={train: {seed: 201, count: 8}}", "run.batch_size_train=2"]
    path = str(ROOT / "train_configs/quickstart/alignment.yaml")
    what, *figures = cells(compare_training(path, 3, changes, budget=0.0))
    assert what == path
    seconds, found, ratio, expected, peak, memory_ratio, gflop, counted = figures
    assert float(seconds) / float(found) == pytest.approx(float(ratio), rel=0.05)
    # Both hold the same libraries, which are most of it.
    assert 0.5 < float(memory_ratio) < 1.5
    assert float(gflop) > 0.5
    assert counted == "–"
    assert min(int(size.replace(",", "")) for size in (expected, peak)) > 200
