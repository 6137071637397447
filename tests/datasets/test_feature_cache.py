"""Features on the disk, and data sets that give them in place of images."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from tests.toy import write_dataset
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.datasets.batch import collate, to_device
from xraygpt.datasets.datasets.base_dataset import BaseDataset, ReportDataset
from xraygpt.datasets.datasets.images import SkippedImageError, open_folder
from xraygpt.datasets.datasets.phantom_dataset import PhantomDataset
from xraygpt.datasets.feature_cache import (
    CachedDataset,
    CachedFeatures,
    Crops,
    FeatureIndex,
    Format,
    write_features,
)
from xraygpt.preparation.pipeline.shards import write_shards
from xraygpt.processors import BaseProcessor, Blip2ImageEvalProcessor, Blip2ImageTrainProcessor


def write_cache(
    folder: Path, values: torch.Tensor, dtype: Format = "fp32", computed: Format = "fp32", **facts: object
) -> CachedFeatures:
    """Write rows (R, N, D), the last one first."""
    index = FeatureIndex(len(values), tuple(values.shape[1:]), dtype, computed, **facts)  # type: ignore[arg-type]
    folder.mkdir(exist_ok=True)
    with (folder / "features.bin").open("wb", buffering=0) as file:
        for row in reversed(range(len(values))):
            write_features(file, index, {row: values[row]})
    index.write(folder)
    return CachedFeatures(folder)


def loose(folder: Path, processor: BaseProcessor) -> BaseDataset:
    return BaseDataset(processor, vis_root=folder / "image", ann_paths=[folder / "filter_cap.json"])


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("computed", [torch.float32, torch.float16])
def test_rows_come_back_in_the_format_that_the_model_gave(
    tmp_path: Path, dtype: Format, computed: torch.dtype
) -> None:
    values = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0)).to(computed)
    format: Format = "fp32" if computed == torch.float32 else "fp16"
    features = pickle.loads(pickle.dumps(write_cache(tmp_path / "c", values, dtype, format)))
    on_disk = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert (tmp_path / "c" / "features.bin").stat().st_size == 60 * on_disk.itemsize
    for row in (4, 0, 2):
        assert features[row].dtype == computed
        assert torch.equal(features[row], values[row].to(on_disk).to(computed))


@pytest.mark.parametrize(("value", "dtype"), [(1e5, "fp16"), (float("nan"), "fp32")])
def test_what_cannot_be_stored_is_refused(tmp_path: Path, value: float, dtype: Format) -> None:
    with pytest.raises(DataError, match=f"no numbers in {dtype}"):
        write_cache(tmp_path / "c", torch.full((1, 2, 2), value), dtype)


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    write_cache(tmp_path / "c", torch.zeros(3, 2, 2))
    os.truncate(tmp_path / "c" / "features.bin", 47)
    with pytest.raises(DataError, match=r"features.bin: 47 bytes; it should have 48"):
        CachedFeatures(tmp_path / "c")


def test_a_crop_is_a_function_of_seed_image_and_number(tmp_path: Path) -> None:
    dataset = loose(write_dataset(tmp_path / "d"), Blip2ImageTrainProcessor(8))
    two, three = Crops(dataset, 2, seed=1), Crops(dataset, 3, seed=1)
    assert len(three) == 3 * 13
    assert three[3 * 5 + 1]["image_id"] == "16"
    assert torch.equal(three[3 * 5 + 1]["image"], two[2 * 5 + 1]["image"])
    assert not torch.equal(three[3 * 5 + 1]["image"], three[3 * 5 + 2]["image"])
    assert not torch.equal(three[16]["image"], Crops(dataset, 3, seed=2)[16]["image"])


def test_samples_have_features_and_open_no_image(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", train=4)
    dataset = loose(folder, Blip2ImageEvalProcessor(8))
    expected = {key: value for key, value in dataset[1].items() if key != "image"}
    shutil.rmtree(folder / "image")
    values = torch.arange(24.0).view(12, 1, 2)
    cached = CachedDataset(dataset, write_cache(tmp_path / "c", values, skipped={"2": "broken"}), 3)
    torch.manual_seed(0)
    samples = [cached[1] for _ in range(20)]
    assert {int(sample["features"][0, 0]) for sample in samples} == {6, 8, 10}  # rows 3, 4 and 5
    assert {key: value for key, value in samples[0].items() if key != "features"} == expected
    with pytest.raises(SkippedImageError, match="broken"):
        cached[2]
    batch = to_device(collate(samples), "meta")
    assert (batch["features"].shape, batch["features"].device.type) == ((20, 1, 2), "meta")
    assert "image" not in batch


def test_a_changed_image_has_another_stamp(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", train=3)
    write_shards(folder, 4096)
    processor = BaseProcessor()
    before = list(loose(folder, processor).image_stamps())
    sharded = open_folder(folder / "shards").stamp("x1")
    assert len(set(before)) == 3
    os.utime(folder / "image" / "x1.png", ns=(0, 0))
    after = list(loose(folder, processor).image_stamps())
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    shutil.copy(folder / "image" / "x0.png", folder / "image" / "x1.png")
    shutil.rmtree(folder / "shards")
    write_shards(folder, 4096)
    assert open_folder(folder / "shards").stamp("x1") != sharded


def test_phantoms_are_told_apart_by_what_they_are_made_from(tmp_path: Path) -> None:
    def phantoms(seed: int, count: int = 2, size: int = 64) -> PhantomDataset:
        processor = BaseProcessor()
        return PhantomDataset(processor, processor, seed=seed, count=count, size=size, cache=tmp_path)

    made = [phantoms(1), phantoms(2), phantoms(1, 3), phantoms(1, 2, 80)]
    assert len({tuple(data.image_stamps()) for data in made}) == 4
    assert "image" not in made[0].with_processor(None)[0]
    assert "image" in made[0][0]


def test_a_data_set_that_does_not_know_how_is_refused() -> None:
    class Own(ReportDataset):
        name = "own"

    with pytest.raises(ConfigError, match=r"run.feature_cache: the data set 'own' .* with_processor"):
        Own().with_processor(None)
