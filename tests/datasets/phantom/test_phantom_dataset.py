from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from xraygpt.common.config import build_typed
from xraygpt.common.errors import ConfigError
from xraygpt.datasets.builders import load_dataset
from xraygpt.datasets.builders.image_text_pair_builder import PhantomBuilder, PhantomConfig
from xraygpt.datasets.datasets.phantom_dataset import PHANTOM_LABELS, PhantomDataset
from xraygpt.datasets.phantom.render import phantom_rng
from xraygpt.datasets.phantom.truth import draw_truth
from xraygpt.evaluation.metrics.phantom import extract_findings
from xraygpt.processors import Blip2ImageEvalProcessor
from xraygpt.processors.base_processor import BaseProcessor

ROOT = Path(__file__).parents[3]
SHIPPED = sorted([*ROOT.glob("train_configs/**/*.yaml"), *ROOT.glob("eval_configs/**/*.yaml")])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRAYGPT_CACHE", str(tmp_path / "cache"))


def dataset(seed: int, count: int, images: bool = False) -> PhantomDataset:
    return PhantomDataset(
        Blip2ImageEvalProcessor(image_size=64),
        BaseProcessor(),
        seed=seed,
        count=count,
        size=64,
        images=images,
    )


def test_sample(tmp_path: Path) -> None:
    data = dataset(1, 4, images=True)
    assert len(data) == 4
    sample = data[2]
    assert (sample["image"].shape, sample["image"].dtype) == ((3, 64, 64), torch.float32)
    assert (sample["image_id"], sample["source"]) == ("phantom-1-2", "phantom")
    assert set(data[2]) == {"image", "caption", "image_id", "study_id", "source", "image_text", "labels"}
    assert data[2]["caption"] == sample["caption"]
    with pytest.raises(IndexError, match="phantom 4 of 4"):
        data[4]


def test_labels_keywords_and_report_tell_the_truth() -> None:
    data = dataset(2, 300)
    for index in range(len(data)):
        sample, truth = data[index], draw_truth(phantom_rng(2, index, "truth"))
        assert "image" not in sample
        present = {name for name, value in zip(PHANTOM_LABELS, sample["labels"], strict=True) if value}
        assert present == {finding.label for finding in truth} | {finding.phrase for finding in truth}
        assert extract_findings(sample["caption"]) == {finding.label for finding in truth}
        assert set(sample["image_text"].split(", ")) == ({f.phrase for f in truth} or {"normal"})


def test_labels_are_unique() -> None:
    assert len(set(PHANTOM_LABELS)) == len(PHANTOM_LABELS) == 36


def test_splits_of_different_seeds_share_nothing() -> None:
    one, other = dataset(10, 150, images=True), dataset(11, 150, images=True)
    assert one.images is not None
    assert other.images is not None
    assert not {image.tobytes() for image in one.images} & {image.tobytes() for image in other.images}
    assert not {one[i]["image_id"] for i in range(150)} & {other[i]["image_id"] for i in range(150)}


def config(**values: Any) -> PhantomConfig:
    return build_typed(PhantomConfig, values, where="datasets.phantom")


def test_builder_gives_each_split() -> None:
    splits = {"train": {"seed": 1, "count": 3}, "test": {"seed": 2, "count": 2}}
    node = {"train": {"name": "blip2_image_eval", "image_size": 64}}
    built = PhantomBuilder(config(splits=splits, vis_processor=node)).build_datasets()
    assert {name: (len(data), data[0]["image_id"]) for name, data in built.items()} == {
        "train": (3, "phantom-1-0"),
        "test": (2, "phantom-2-0"),
    }


def test_text_only_split_renders_nothing(tmp_path: Path) -> None:
    splits = {"train": {"seed": 1, "count": 100_000}}
    built = PhantomBuilder(config(splits=splits, data_type="text")).build_datasets()
    assert "image" not in built["train"][99_999]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"splits": {"train": {"seed": 1}, "val": {"seed": 1}}}, "splits share a seed"),
        ({"size": 63}, "size must be at least 64 pixels, got 63"),
        ({"splits": {"train": {"seed": 1, "count": 0}}}, "count must be at least 1"),
        ({"splits": {"train": {"sed": 1}}}, r"splits\.train\.sed: unknown key.*'seed'"),
    ],
)
def test_unusable_configuration_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**values)


def test_defaults_load() -> None:
    assert load_dataset("phantom") == {}


def test_no_shipped_file_scores_on_phantoms_that_another_trains_or_chooses_on() -> None:
    uses: dict[int, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in SHIPPED:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        splits = (content.get("datasets") or {}).get("phantom", {}).get("splits", {})
        for name, split in splits.items():
            uses[split["seed"]][name].add(str(path.relative_to(ROOT)))
    assert any("test" in use for use in uses.values())
    shared = {
        seed: {name: sorted(files) for name, files in use.items()}
        for seed, use in uses.items()
        if len(use) > 1
    }
    assert not shared
