"""Images to look at, by their id: as they are on disk, not as the model gets them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.toy import write_dataset
from xraygpt.common.errors import DataError
from xraygpt.datasets.datasets.openi_dataset import OpenIDataset
from xraygpt.datasets.datasets.phantom_dataset import PhantomDataset
from xraygpt.processors.base_processor import BaseProcessor
from xraygpt.processors.blip_processors import Blip2ImageEvalProcessor


def test_picture_of_a_file_keeps_its_proportions(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data")
    Image.new("L", (301, 77), 40).save(folder / "image" / "x3.png")
    dataset = OpenIDataset(
        Blip2ImageEvalProcessor(8), vis_root=folder / "image", ann_paths=[folder / "filter_cap.json"]
    )
    picture = dataset.picture("x3")
    assert (picture.size, picture.mode, picture.getpixel((0, 0))) == ((301, 77), "RGB", (40, 40, 40))
    assert not dataset.synthetic
    with pytest.raises(DataError, match="no image 'x17'"):  # it is in the other split
        dataset.picture("x17")


def test_picture_of_a_phantom_is_the_rendered_image(tmp_path: Path) -> None:
    dataset = PhantomDataset(BaseProcessor(), BaseProcessor(), seed=5, count=3, size=64, cache=tmp_path)
    sample = dataset[2]
    assert dataset.picture(sample["image_id"]).tobytes() == sample["image"].tobytes()  # type: ignore[attr-defined]
    assert dataset.synthetic
    for wrong in ("phantom-5-3", "phantom-6-0", "phantom-5-", "x"):
        with pytest.raises(DataError, match="no image"):
            dataset.picture(wrong)
