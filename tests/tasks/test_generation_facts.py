"""What tells the data of one generation from those of another, and what is known of the references."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xraygpt.datasets.datasets.phantom_dataset import PhantomDataset
from xraygpt.processors.base_processor import BaseProcessor
from xraygpt.tasks.predictions import checkpoint_of, data_fingerprint, reference_sections


def phantoms(seed: int, count: int = 5, size: int = 64) -> PhantomDataset:
    processor = BaseProcessor()
    return PhantomDataset(processor, processor, seed=seed, count=count, size=size, images=False)


def test_phantoms_are_told_apart() -> None:
    splits = [phantoms(9), phantoms(203), phantoms(9, count=6), phantoms(9, size=128)]
    assert len({data_fingerprint(split) for split in splits}) == 4
    assert data_fingerprint(phantoms(9)) == data_fingerprint(phantoms(9))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"settings": {"cleaning": {"join_sections": True}, "rewriting": None}}, "after cleaning"),
        ({"settings": {"cleaning": {"join_sections": True}, "rewriting": {"model": "m"}}}, "as the data set"),
        ({"settings": {"cleaning": None, "rewriting": None}}, "as the data set"),
        ([], "as the data set"),
        (None, "as the data set"),
    ],
)
def test_references_of_a_prepared_folder(tmp_path: Path, content: Any, words: str) -> None:
    if content is not None:
        (tmp_path / "preparation.json").write_text(json.dumps(content))
    assert words in reference_sections({"openi": {"build_info": {"storage": str(tmp_path)}}})


def test_references_of_other_data() -> None:
    assert reference_sections({"phantom": {}}) == ("findings", "impression")
    assert reference_sections({"caption": {"build_info": None}}) == "as the data set gives them"


@pytest.mark.parametrize(
    ("evaluate", "resume", "ckpt", "words"),
    [
        (True, None, "best.pth", "best.pth"),
        (True, "later.pth", "best.pth", "later.pth"),
        (True, "auto", "best.pth", "the latest in the output folder"),
        (True, None, None, "none: the weights of the model type"),
        (False, None, "best.pth", "trained in the same run"),
    ],
)
def test_where_the_weights_come_from(
    evaluate: bool, resume: str | None, ckpt: str | None, words: str
) -> None:
    run = SimpleNamespace(evaluate=evaluate, resume_ckpt_path=resume)
    assert checkpoint_of(SimpleNamespace(run_cfg=run, model_cfg=SimpleNamespace(ckpt=ckpt))) == words
