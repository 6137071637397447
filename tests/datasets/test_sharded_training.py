"""Training from shards is training from loose files: order, processes, resume and losses."""

from __future__ import annotations

import re
import shutil
from argparse import Namespace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.toy import metrics_of, write_config, write_dataset
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.errors import DataError
from xraygpt.datasets.batch import Batch
from xraygpt.datasets.builders.base_dataset_builder import BuildInfo, DatasetConfig
from xraygpt.datasets.builders.image_text_pair_builder import MIMICBuilder
from xraygpt.datasets.datasets.base_dataset import BaseDataset
from xraygpt.datasets.datasets.caption_datasets import CaptionDataset
from xraygpt.datasets.datasets.images import ShardedImages
from xraygpt.datasets.stream import BatchLoader, EvalStream, TrainStream
from xraygpt.preparation.pipeline.shards import write_shards
from xraygpt.runners.launch import launch


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """The same data as loose files and as shards alone."""
    loose = write_dataset(tmp_path / "loose", train=16, val=5)
    sharded = shutil.copytree(loose, tmp_path / "sharded")
    write_shards(sharded, 4096)
    shutil.rmtree(sharded / "image")
    return {"loose": loose, "sharded": sharded}


def dataset(storage: Path, split: str = "train", skip_corrupt: bool = False) -> BaseDataset:
    node = {"train": {"name": "blip2_image_train", "image_size": 8}}
    cfg = DatasetConfig(build_info=BuildInfo(str(storage)), vis_processor=node, skip_corrupt=skip_corrupt)
    return MIMICBuilder(cfg).build_datasets()[split]


def same(one: Batch, other: Batch) -> bool:
    return one["image_id"] == other["image_id"] and torch.equal(one["image"], other["image"])


def batches(data: BaseDataset, rank: int, first: int = 0, count: int = 4, workers: int = 2) -> list[Batch]:
    stream = TrainStream([data], [1.0], 2, seed=3, rank=rank, world_size=2)
    return list(islice(BatchLoader(stream, first=first, num_workers=workers), count))


def test_each_sample_once_a_pass_over_two_ranks_of_two_loading_processes(folders: dict[str, Path]) -> None:
    data = {name: dataset(folder) for name, folder in folders.items()}
    assert isinstance(data["sharded"].images, ShardedImages)
    read = {name: [batches(data[name], rank) for rank in range(2)] for name in data}
    seen = [image_id for rank in read["sharded"] for batch in rank for image_id in batch["image_id"]]
    assert sorted(seen) == sorted(f"x{index}" for index in range(16))
    for rank in range(2):
        pairs = zip(read["loose"][rank], read["sharded"][rank], strict=True)
        assert all(same(one, other) for one, other in pairs)


def test_pass_is_gone_on_with_where_it_stopped(folders: dict[str, Path]) -> None:
    whole = batches(dataset(folders["sharded"]), rank=1, count=6, workers=0)
    rest = batches(dataset(folders["sharded"]), rank=1, first=3, count=3)
    assert all(same(one, other) for one, other in zip(whole[3:], rest, strict=True))


def test_evaluation_reads_shards_in_order(folders: dict[str, Path]) -> None:
    data = dataset(folders["sharded"], "val")
    loaded = [batch["image_id"] for batch in BatchLoader(EvalStream(data, 2, seed=0), num_workers=2)]
    assert loaded == [["x16", "x17"], ["x18", "x19"], ["x20"]]


def test_reference_constructor_takes_a_folder_of_shards(folders: dict[str, Path]) -> None:
    storage = folders["sharded"]
    data = CaptionDataset(vis_root=storage / "shards", ann_paths=[storage / "filter_cap.json"], split="val")
    expected = np.asarray(Image.open(folders["loose"] / "image" / "x17.png"))
    assert np.array_equal(np.asarray(data.picture("x17")), expected)
    assert np.array_equal(np.asarray(data.displ_item(1)["image"]), expected)
    assert data.displ_item(1)["file"].endswith(".tar: x17")


def test_corrupt_image_in_a_shard_is_named_and_may_be_left_out(tmp_path: Path) -> None:
    storage = write_dataset(tmp_path / "d", train=4, val=0)
    (storage / "image" / "x2.png").write_bytes(b"no image at all")
    write_shards(storage)
    shutil.rmtree(storage / "image")
    place = r"row \[2\]: .*train-000000\.tar: x2: is none of DICOM, JPEG"
    with pytest.raises(DataError, match=place + r".*skip_corrupt: true"):
        dataset(storage)[2]
    skipped: list[str] = []
    stream = EvalStream(dataset(storage, skip_corrupt=True), 4, seed=0)
    (batch,) = BatchLoader(stream, on_skipped=skipped.extend)
    assert batch["image_id"] == ["x0", "x1", "x3"]
    assert re.search(place, "".join(skipped))


def test_losses_and_weights_are_those_of_loose_files(folders: dict[str, Path], tmp_path: Path) -> None:
    for name, storage in folders.items():
        cfg = write_config(tmp_path / f"{name}.yaml", storage, tmp_path / name, num_workers=2)
        launch(Namespace(cfg_path=str(cfg), options=["run.valid_splits=[val]"]))
    losses = metrics_of(tmp_path / "loose")
    assert len({line["loss"] for line in losses}) == 12
    assert metrics_of(tmp_path / "sharded") == losses
    assert metrics_of(tmp_path / "sharded", "valid") == metrics_of(tmp_path / "loose", "valid")
    loose, sharded = (load_checkpoint(tmp_path / name / "checkpoint_1.pth")["model"] for name in folders)
    assert all(torch.equal(loose[key], sharded[key]) for key in loose)
