from __future__ import annotations

import itertools
import random
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.toy import write_dataset
from xraygpt.common.errors import DataError
from xraygpt.datasets import stream as stream_module
from xraygpt.datasets.batch import Batch, Sample, to_device
from xraygpt.datasets.builders.base_dataset_builder import BuildInfo, DatasetConfig
from xraygpt.datasets.builders.image_text_pair_builder import OpenIBuilder
from xraygpt.datasets.data_utils import prepare_sample
from xraygpt.datasets.datasets.images import SkippedImageError
from xraygpt.datasets.stream import BatchLoader, EvalStream, TrainStream, window_of


class Noise:
    """Samples with noise from all three generators; some cannot be read."""

    def __init__(self, name: str, size: int, corrupt: tuple[int, ...] = (), skip: bool = True) -> None:
        self.name, self.size, self.corrupt, self.skip = name, size, corrupt, skip

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if index in self.corrupt:
            raise (SkippedImageError if self.skip else DataError)(f"image {self.name}{index} is corrupt")
        noise = [random.random(), np.random.random(), float(torch.rand(()))]  # noqa: NPY002
        return {
            "image": torch.tensor(noise).view(3, 1, 1),
            "caption": "",
            "image_id": f"{self.name}{index}",
            "source": self.name,
        }


def stream(
    *datasets: Noise, ratios: tuple[float, ...] = (), batch_size: int = 4, **kwargs: Any
) -> TrainStream:
    weights = ratios or (1.0,) * len(datasets)
    return TrainStream(
        datasets, weights, batch_size, seed=kwargs.pop("seed", 1), prompts=["p", "q"], **kwargs
    )


def ids(source: TrainStream, steps: range) -> list[list[str]]:
    return [batch_of(source, step)["image_id"] for step in steps]


def batch_of(source: TrainStream, step: int) -> Batch:
    batch = source[step]
    assert isinstance(batch, dict)
    return batch


def same(a: Batch, b: Batch) -> bool:
    return (
        a["image_id"] == b["image_id"] and a["prompt"] == b["prompt"] and torch.equal(a["image"], b["image"])
    )


def test_any_step_can_be_had_without_those_before() -> None:
    parts = Noise("a", 10), Noise("b", 3)
    whole = stream(*parts, ratios=(3, 1))
    in_order = [batch_of(whole, step) for step in range(30)]
    for step in (29, 7, 0):
        assert same(batch_of(stream(*parts, ratios=(3, 1)), step), in_order[step])


def test_far_steps_agree_with_a_count_from_the_start() -> None:
    parts = Noise("a", 50), Noise("b", 20)
    source = stream(*parts, ratios=(3, 1), batch_size=1)
    turns = Counter(source._draw(step)[0] for step in range(9000))
    assert source._draw(9000)[1] == turns[source._draw(9000)[0]]
    assert 0.70 < turns[0] / 9000 < 0.80


def test_every_sample_comes_once_in_a_pass_and_passes_differ() -> None:
    seen = [name for batch in ids(stream(Noise("a", 10), batch_size=5), range(4)) for name in batch]
    assert sorted(seen[:10]) == sorted(seen[10:]) == sorted(f"a{i}" for i in range(10))
    assert seen[:10] != seen[10:]


def test_batch_may_be_larger_than_the_data() -> None:
    assert Counter(ids(stream(Noise("a", 3), batch_size=9), range(1))[0]) == {"a0": 3, "a1": 3, "a2": 3}


def test_a_batch_comes_from_one_data_set() -> None:
    for batch in ids(stream(Noise("a", 10), Noise("b", 10)), range(20)):
        assert len({name[0] for name in batch}) == 1


def test_seed_changes_the_stream() -> None:
    assert ids(stream(Noise("a", 10)), range(3)) != ids(stream(Noise("a", 10), seed=2), range(3))


def test_processes_see_slices_of_the_batch_of_one_process() -> None:
    parts = Noise("a", 10, corrupt=(4,)), Noise("b", 7)
    one = stream(*parts, batch_size=4)
    two = [stream(*parts, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    for step in range(12):
        halves, whole = [batch_of(part, step) for part in two], batch_of(one, step)
        assert halves[0]["image_id"] + halves[1]["image_id"] == whole["image_id"]
        assert torch.equal(torch.cat([half["image"] for half in halves]), whole["image"])
        assert halves[0]["prompt"] == halves[1]["prompt"] == whole["prompt"]


class Reports(Noise):
    """Samples of which each has a report of its own length."""

    def caption(self, index: int) -> str:
        return "x" * (1 + index * 7 % self.size)

    def __getitem__(self, index: int) -> Sample:
        return {**super().__getitem__(index), "caption": self.caption(index)}


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the 11 or 12 batches of two samples of a pass through 25 windows hold 4, 4 and 3 or 4."""
    monkeypatch.setattr(stream_module, "WINDOW", 4)


def by_length(*datasets: Noise, **kwargs: Any) -> TrainStream:
    return stream(*datasets, lengths_of=lambda captions: [len(text) for text in captions], **kwargs)


def lengths(batch: Batch) -> list[int]:
    return [len(caption) for caption in batch["caption"]]


def test_windows_lie_within_a_pass_and_the_last_is_shorter(small_windows: None) -> None:
    windows = [window_of(turn, size=2, samples=25) for turn in range(25)]
    assert list(dict.fromkeys(windows)) == [
        *(range(4), range(4, 8), range(8, 12)),
        range(12, 13),  # the end of one pass and the beginning of the next
        *(range(13, 17), range(17, 21), range(21, 25)),
    ]
    assert all(turn in window for turn, window in enumerate(windows))
    assert window_of(70, size=2, samples=1) == range(70, 71)
    assert list(window_of(9, size=2, samples=22)) == [8, 9, 10]


def test_a_window_has_the_same_samples_arranged_by_length(small_windows: None) -> None:
    data = Reports("a", 25)
    plain, grouped = stream(data, batch_size=2), by_length(data, batch_size=2)
    moved = 0
    for turn in range(50):
        window = window_of(turn, size=2, samples=25)
        before, after = ([batch_of(part, step) for step in window] for part in (plain, grouped))
        names = [[name for batch in part for name in batch["image_id"]] for part in (before, after)]
        assert Counter(names[0]) == Counter(names[1])
        moved += names[0] != names[1]
        images = dict(zip(names[0], torch.cat([batch["image"] for batch in before]), strict=True))
        for batch in after:  # a sample is augmented as without grouping
            for name, image in zip(batch["image_id"], batch["image"], strict=True):
                assert torch.equal(image, images[name])
        if len(window) > 1:
            ranges = sorted((min(lengths(batch)), max(lengths(batch))) for batch in after)
            assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))
    assert moved > 40


def test_the_order_of_grouped_batches_is_random() -> None:
    source = by_length(Reports("a", 256))
    firsts = [lengths(batch_of(source, step))[0] for step in range(128)]
    for part in (firsts[:64], firsts[64:]):
        rises = sum(a < b for a, b in itertools.pairwise(part))
        assert 20 < rises < 43
    assert firsts[:64] != firsts[64:]


def test_any_grouped_step_can_be_had_without_those_before(small_windows: None) -> None:
    parts = Reports("a", 25), Reports("b", 9)
    whole = by_length(*parts, ratios=(3, 1), batch_size=2)
    in_order = [batch_of(whole, step) for step in range(60)]
    for step in (59, 30, 7, 0):
        assert same(batch_of(by_length(*parts, ratios=(3, 1), batch_size=2), step), in_order[step])


def test_grouping_changes_neither_mixing_nor_passes() -> None:
    parts = Reports("a", 40), Reports("b", 20)
    plain, grouped = (make(*parts, ratios=(3, 1)) for make in (stream, by_length))
    batches = [(batch_of(plain, step), batch_of(grouped, step)) for step in range(80)]
    assert all(a["source"] == b["source"] and a["prompt"] == b["prompt"] for a, b in batches)
    seen = [name for _, batch in batches for name in batch["image_id"] if batch["source"] == "a"]
    for first in range(0, len(seen) - 40, 40):
        assert len(set(seen[first : first + 40])) == 40


def test_processes_have_reports_of_like_length_at_the_same_step() -> None:
    data = Reports("a", 200)
    one = by_length(data, batch_size=4)
    two = [by_length(data, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    for step in range(60):
        halves, whole = [batch_of(part, step) for part in two], batch_of(one, step)
        assert halves[0]["image_id"] + halves[1]["image_id"] == whole["image_id"]
        assert max(lengths(whole)) - min(lengths(whole)) < 20  # of 1 to 200


def test_global_generators_are_left_as_they_were() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    stream(Noise("a", 10))[5]
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_processes_change_nothing(workers: int, tmp_path: Path) -> None:
    cfg = DatasetConfig(
        build_info=BuildInfo(str(write_dataset(tmp_path / "d"))),
        vis_processor={"train": {"name": "blip2_image_train", "image_size": 8}},
    )
    data = OpenIBuilder(cfg).build_datasets()["train"]
    source = TrainStream([data], [1.0], 4, seed=1)
    state = torch.get_rng_state()
    loaded = list(islice(BatchLoader(source, first=3, num_workers=workers), 5))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(same(batch, batch_of(source, 3 + i)) for i, batch in enumerate(loaded))


@pytest.mark.parametrize("workers", [0, 1])
def test_error_arrives_without_a_stack_trace_in_its_message(workers: int) -> None:
    source = stream(Noise("a", 10, corrupt=(4,), skip=False))
    with pytest.raises(DataError) as caught:
        list(islice(BatchLoader(source, num_workers=workers), 3))
    assert str(caught.value) == "image a4 is corrupt"


def test_corrupt_image_is_replaced_and_reported() -> None:
    reports: list[str] = []
    source = stream(Noise("a", 10, corrupt=(4,)))
    batches = list(islice(BatchLoader(source, on_skipped=reports.extend), 5))
    assert all(len(batch["image_id"]) == 4 and "skipped" not in batch for batch in batches)
    assert Counter(reports) == {"image a4 is corrupt": 2}


def test_all_corrupt_is_an_error() -> None:
    assert "every image" in str(stream(Noise("a", 2, corrupt=(0, 1)))[0])


def test_evaluation_takes_each_sample_once_in_order() -> None:
    data = Noise("a", 7, corrupt=(2, 3))
    reports: list[str] = []
    loader = BatchLoader(EvalStream(data, 2, seed=0, prompt="p"), on_skipped=reports.extend)
    assert [batch["image_id"] for batch in loader] == [["a0", "a1"], ["a4", "a5"], ["a6"]]
    assert len(reports) == 2


def test_processes_evaluate_the_batches_of_one() -> None:
    data = Noise("a", 7, corrupt=(2, 3))
    one = list(BatchLoader(EvalStream(data, 2, seed=0)))
    assert [batch["number"] for batch in one] == [0, 2, 3]
    dealt = [EvalStream(data, 2, seed=0, rank=rank, world_size=2) for rank in range(2)]
    two = [batch for part in dealt for batch in BatchLoader(part)]
    assert sorted(batch["number"] for batch in two) == [0, 2, 3]
    for batch in one:
        (other,) = (own for own in two if own["number"] == batch["number"])
        assert torch.equal(other["image"], batch["image"])


def test_evaluation_goes_on_with_the_batches_that_are_left() -> None:
    for rank, left in enumerate([[1, 4], [3]]):
        stream = EvalStream(Noise("a", 9), 2, seed=0, rank=rank, world_size=2, prompt="p")
        batches = list(BatchLoader(stream.leaving_out({0, 2})))
        assert [batch["number"] for batch in batches] == left
        assert {batch["prompt"] for batch in batches} == {"p"}
        assert stream.total == 5


def test_ratios_must_fit() -> None:
    with pytest.raises(ValueError, match="one each"):
        TrainStream([Noise("a", 2)], [1.0, 2.0], 1, seed=0)
    with pytest.raises(ValueError, match="positive"):
        TrainStream([Noise("a", 2)], [0.0], 1, seed=0)


def test_to_device_and_its_old_name() -> None:
    batch = batch_of(stream(Noise("a", 10)), 0)
    assert to_device(batch, "cpu")["image"].device.type == "cpu"
    assert to_device(batch, "meta")["image"].device.type == "meta"
    assert batch["image"].device.type == "cpu"
    assert prepare_sample(batch, cuda_enabled=False) is batch
