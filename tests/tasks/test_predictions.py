"""The journal of a generation: what survives, what is thrown away; the fingerprints that decide it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from xraygpt.datasets.batch import Sample
from xraygpt.datasets.datasets.annotations import Annotation
from xraygpt.datasets.datasets.base_dataset import ReportDataset
from xraygpt.tasks.predictions import (
    FinishedBatch,
    GenerationJournal,
    data_fingerprint,
    differences,
    weights_fingerprint,
)

SETTINGS = {"generation": {"num_beams": 1}, "images": 5}


def batch(number: int) -> FinishedBatch:
    return FinishedBatch(number, 0.5, [{"image_id": f"ä{number}"}])


def test_what_was_written_is_there_again_whatever_the_damage(tmp_path: Path) -> None:
    first = GenerationJournal(tmp_path / "j", SETTINGS, part=0)
    for number in (3, 0):
        first.append(batch(number))
    with (tmp_path / "j" / "part-7.jsonl").open("wb") as file:  # of a process that is no more
        file.write(b"\0\0\0\n" + b'{"number": 1, "seconds": 0.1, "rows": []}\n{"number": 9')
    with (tmp_path / "j" / "part-0.jsonl").open("a") as file:
        file.write('{"number": 4, "sec')
    second = GenerationJournal(tmp_path / "j", SETTINGS, part=0)
    assert second.done == {0, 1, 3}
    second.append(batch(4))
    batches = second.finish()
    assert [found.number for found in batches] == [0, 1, 3, 4]
    assert batches[-1] == batch(4)


def test_other_settings_throw_it_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    GenerationJournal(tmp_path / "j", SETTINGS, part=0).append(batch(0))
    with caplog.at_level(logging.WARNING):
        journal = GenerationJournal(tmp_path / "j", {**SETTINGS, "images": 6}, part=0)
    assert journal.done == frozenset()
    assert caplog.messages[0].endswith("which is thrown away: images: 5, now 6")


def test_a_process_that_only_reads_writes_nothing(tmp_path: Path) -> None:
    journal = GenerationJournal(tmp_path / "j", SETTINGS, part=None)
    journal.append(batch(0))
    assert journal.finish() == []


def test_differences_are_named_by_their_keys() -> None:
    after = {"generation": {"num_beams": 3, "top_p": 1.0}}
    assert differences(SETTINGS, after) == [
        "generation.num_beams: 1, now 3",
        "generation.top_p: None, now 1.0",
        "images: 5, now None",
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_weights_are_told_apart(dtype: torch.dtype) -> None:
    model = nn.BatchNorm1d(5000)
    model.running_mean = torch.zeros(5000, dtype=dtype)
    before = weights_fingerprint(model)
    assert weights_fingerprint(model) == before
    model.running_mean += 1
    after = weights_fingerprint(model)
    model.num_batches_tracked += 1
    assert len({before, after, weights_fingerprint(model)}) == 3


def test_data_are_told_apart() -> None:
    class Data(ReportDataset):
        def __init__(self, *rows: Annotation) -> None:
            self.rows = rows

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> Sample:
            raise AssertionError("no image has to be read")

    a, b = (Annotation(name, "Clear.", "test", name, "") for name in "ab")
    other = Annotation("b", "Opaque.", "test", "b", "")
    data = [Data(a, b), Data(b, a), Data(a), Data(a, other)]
    assert len({data_fingerprint(rows) for rows in data}) == 4
