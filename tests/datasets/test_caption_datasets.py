from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.toy import write_dataset
from xraygpt.common.errors import ConfigError, DataError, MissingFileError
from xraygpt.datasets.builders import DatasetZoo, load_dataset
from xraygpt.datasets.builders.base_dataset_builder import BuildInfo, DatasetConfig
from xraygpt.datasets.builders.image_text_pair_builder import MIMICBuilder, OpenIBuilder
from xraygpt.datasets.datasets.caption_datasets import CaptionDataset
from xraygpt.datasets.datasets.images import SkippedImageError
from xraygpt.pictures.reading import read_image
from xraygpt.processors import Blip2ImageEvalProcessor, Blip2ImageTrainProcessor


def config(storage: Path, **values: object) -> DatasetConfig:
    node = {"train": {"name": "blip2_image_train", "image_size": 8}}
    return DatasetConfig(build_info=BuildInfo(str(storage)), vis_processor=node, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(("builder", "suffix"), [(MIMICBuilder, ".jpg"), (OpenIBuilder, ".png")])
def test_builder_gives_each_split_its_samples(tmp_path: Path, builder: type, suffix: str) -> None:
    datasets = builder(config(write_dataset(tmp_path / "d", suffix=suffix))).build_datasets()
    assert {split: len(data) for split, data in datasets.items()} == {"train": 13, "val": 5}
    sample = datasets["val"][0]
    assert sample["image"].shape == (3, 8, 8)
    assert sample["image"].dtype == torch.float32
    assert (sample["image_id"], sample["caption"]) == ("x13", "value 1")
    assert sample["source"] == datasets["val"].name


def test_other_splits_are_not_augmented(tmp_path: Path) -> None:
    datasets = OpenIBuilder(config(write_dataset(tmp_path / "d"))).build_datasets()
    assert isinstance(datasets["train"].vis_processor, Blip2ImageTrainProcessor)
    assert isinstance(datasets["val"].vis_processor, Blip2ImageEvalProcessor)
    assert datasets["val"][0]["image"].shape == (3, 8, 8)


def test_text_data_needs_no_images(tmp_path: Path) -> None:
    storage = write_dataset(tmp_path / "d")
    for file in (storage / "image").iterdir():
        file.unlink()
    (storage / "image").rmdir()
    sample = OpenIBuilder(config(storage, data_type="text")).build_datasets()["train"][2]
    assert set(sample) == {"caption", "image_id", "study_id", "source"}


def test_study_of_each_image_is_in_the_batch(tmp_path: Path) -> None:
    storage = write_dataset(tmp_path / "d", train=3, val=0)
    content = json.loads((storage / "filter_cap.json").read_text())
    content["annotations"][1]["study_id"] = "s"
    (storage / "filter_cap.json").write_text(json.dumps(content))
    train = OpenIBuilder(config(storage)).build_datasets()["train"]
    assert train.collater([train[i] for i in range(3)])["study_id"] == ["x0", "s", "x2"]


def test_configured_text_processor_is_applied(tmp_path: Path) -> None:
    storage = tmp_path / "d"
    write_dataset(storage, train=1, val=0)
    (storage / "filter_cap.json").write_text(
        json.dumps({"annotations": [{"image_id": "x0", "caption": "No Edema."}]})
    )
    plain = OpenIBuilder(config(storage)).build_datasets()["train"]
    cleaned = OpenIBuilder(config(storage, text_processor={"train": {"name": "blip_caption"}}))
    assert plain[0]["caption"] == "No Edema."
    assert cleaned.build_datasets()["train"][0]["caption"] == "no edema"


def test_all_absent_images_are_counted_at_the_start(tmp_path: Path) -> None:
    storage = write_dataset(tmp_path / "d")
    for index in range(7):
        (storage / "image" / f"x{index}.png").unlink()
    message = r"7 images are named but absent(.|\n)*x4 \(.*filter_cap\.json: row \[4\]\)\n(.|\n)*and 2 more"
    with pytest.raises(DataError, match=message):
        OpenIBuilder(config(storage)).build_datasets()


def test_storage_that_is_not_set_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"datasets\.openi\.build_info\.storage is not set"):
        OpenIBuilder(DatasetConfig()).build_datasets()
    with pytest.raises(MissingFileError, match=r"nowhere(.|\n)*datasets\.openi\.build_info\.storage"):
        OpenIBuilder(config(tmp_path / "nowhere")).build_datasets()


@pytest.mark.parametrize("damage", [b"", b"no image at all", "half"])
def test_corrupt_image_is_named_with_its_annotation(tmp_path: Path, damage: bytes | str) -> None:
    storage = write_dataset(tmp_path / "d")
    path = storage / "image" / "x3.png"
    path.write_bytes(path.read_bytes()[:150] if isinstance(damage, str) else damage)
    place = r"filter_cap\.json: row \[3\]: .*x3\.png"
    with pytest.raises(DataError, match=place + r".*skip_corrupt: true"):
        OpenIBuilder(config(storage)).build_datasets()["train"][3]
    with pytest.raises(SkippedImageError, match=place):
        OpenIBuilder(config(storage, skip_corrupt=True)).build_datasets()["train"][3]


def test_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:800, 0:1000]
    image = Image.fromarray(((np.sin(rows / 90) + np.cos(columns / 70) + 2) * 63).astype(np.uint8))
    path = tmp_path / "big.jpg"
    image.save(path, quality=95)
    processor = Blip2ImageEvalProcessor(image_size=32)
    small = read_image(path, processor.decode_size)
    assert max(small.size) < 300
    assert min(small.size) >= 64
    difference = (processor(small) - processor(read_image(path))).abs().max()
    assert float(difference) < 0.05


def test_load_dataset_by_hand(tmp_path: Path) -> None:
    storage = write_dataset(tmp_path / "d")
    assert load_dataset("openi", vis_path=storage)["train"][0]["image"].shape == (3, 224, 224)
    assert "image" not in load_dataset("openi", vis_path=storage, data_type="text")["val"][0]
    assert {"mimic", "openi"} <= set(DatasetZoo().get_names())


def test_displ_item_shows_the_original(tmp_path: Path) -> None:
    shown = OpenIBuilder(config(write_dataset(tmp_path / "d"))).build_datasets()["train"].displ_item(1)
    assert (shown["file"], shown["caption"], shown["image"].size) == (
        str(tmp_path / "d" / "image" / "x1.png"),
        "value 7",
        (10, 12),
    )


def test_annotations_are_dicts_as_in_lavis(tmp_path: Path) -> None:
    rows = [
        {"image_id": f"x{number}", "caption": "Clear.", "split": "train", "study_id": "s", "view": "PA"}
        for number in range(3)
    ]
    (tmp_path / "filter_cap.json").write_text(json.dumps({"annotations": rows}))
    data = MIMICBuilder(config(tmp_path, data_type="text")).build_datasets()["train"]
    assert isinstance(data, CaptionDataset)
    assert len(data.annotation) == 3
    assert data.annotation[1]["caption"] == "Clear."
    assert [*data.annotation] == rows
    assert [*data.annotation[1:]] == rows[1:]
