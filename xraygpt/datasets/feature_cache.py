"""Features of images on the disk, and data sets that give them in place of images.

A cache is a folder with ``features.bin``, rows of (N, D) numbers one after the other, and ``index.json``,
which says what they are. Row i * K + c is crop c of image i.

Shapes: K crops of each image, N tokens of width D.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from xraygpt.common.config import build_typed
from xraygpt.common.errors import DataError
from xraygpt.common.files import load_json
from xraygpt.common.precision import DTYPES
from xraygpt.common.run_record import write_json
from xraygpt.datasets.batch import Sample
from xraygpt.datasets.datasets.base_dataset import ReportDataset
from xraygpt.datasets.datasets.images import SkippedImageError
from xraygpt.datasets.seeding import seed_cpu

FEATURE_FILE = "features.bin"
INDEX_FILE = "index.json"

Format = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class FrozenPart:
    """What stays as it is on the way from an image to the loss, so that its output can be computed once."""

    name: str
    """In words, e.g. "vision encoder"."""
    encode: Callable[[Tensor], Tensor]
    """Images (B, 3, H, W) -> features (B, N, D). The model takes features in place of images wherever it
    would call this, which then returns them."""
    shape: tuple[int, int]
    """(N, D)"""
    modules: Mapping[str, nn.Module]
    """Name -> module, of all whose weights decide about the features."""
    settings: Mapping[str, Any]
    """What else decides about them; plain values and dataclasses."""


@dataclass(frozen=True)
class FeatureIndex:
    """What the rows of a cache are."""

    rows: int
    shape: tuple[int, int]
    """(N, D)"""
    dtype: Format
    """Number format on the disk."""
    computed: Format
    """Number format that the model has given and gets back."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Number of an image that could not be read -> why; its rows are zeros."""
    made_from: dict[str, Any] = field(default_factory=dict)
    """All that the features follow from, whose hash is the folder's name."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.shape[0] * self.shape[1] * DTYPES[self.dtype].itemsize

    @property
    def nbytes(self) -> int:
        """Bytes on the disk."""
        return self.rows * self.row_bytes

    def write(self, folder: Path) -> None:
        """Write ``index.json``."""
        write_json(folder / INDEX_FILE, asdict(self))


class CachedFeatures:
    """The rows of a complete cache, mapped from the disk when the first one is read.

    Raises:
        MissingFileError, DataError: there is no such cache, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / INDEX_FILE
        self.index = build_typed(FeatureIndex, load_json(path), where=str(path))
        self.path = folder / FEATURE_FILE
        size, expected = self.path.stat().st_size, self.index.nbytes
        if size != expected:
            raise DataError(f"{self.path}: {size} bytes; it should have {expected}")
        self._map: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}  # each loading process maps the file for itself

    def __getitem__(self, row: int) -> Tensor:
        """Return row number `row`, (N, D)."""
        index = self.index
        if self._map is None:
            self._map = np.memmap(self.path, mode="r", shape=(index.rows, index.row_bytes))
        stored = torch.from_numpy(self._map[row].copy()).view(DTYPES[index.dtype])
        return stored.view(index.shape).to(DTYPES[index.computed])


def write_features(file: FileIO, index: FeatureIndex, rows: Mapping[int, Tensor]) -> None:
    """Write rows, each (N, D), where they belong in the file of a cache.

    Raises:
        DataError: they hold NaN or infinity, or are too large for the number format.
    """
    for row, features in rows.items():
        stored = features.to("cpu", DTYPES[index.dtype]).contiguous()
        if not stored.isfinite().all():
            advice = "" if index.dtype == "fp32" else "; try run.feature_cache.dtype fp32"
            raise DataError(f"features are infinite or no numbers in {index.dtype}{advice}")
        file.seek(row * index.row_bytes)
        left = stored.view(torch.uint8).numpy().data.cast("B")
        while left:  # a file without buffer may take a part at a time
            left = left[file.write(left) :]


class Crops(ReportDataset):
    """The images of a data set, each in K crops: crop c of image i is a function of (`seed`, i, c)."""

    def __init__(self, dataset: ReportDataset, crops: int, seed: int) -> None:
        self.dataset, self.crops, self.seed = dataset, crops, seed

    def __len__(self) -> int:
        return len(self.dataset) * self.crops

    def __getitem__(self, row: int) -> Sample:
        """Return the image of a row; the row's number is its `image_id`."""
        index, crop = divmod(row, self.crops)
        seed_cpu(self.seed, "crop", index, crop)
        sample = self.dataset[index]
        sample["image_id"] = str(row)
        return sample


class CachedDataset(ReportDataset):
    """A data set whose samples have `features` in place of `image`.

    Which of several crops a sample has is drawn from torch's generator, which a `TrainStream` seeds.

    Args:
        features: of all images, `crops` rows each.
    """

    def __init__(self, dataset: ReportDataset, features: CachedFeatures, crops: int) -> None:
        self.dataset, self.features, self.crops = dataset, features, crops
        self.texts = dataset.with_processor(None)
        self.identity, self.rows = dataset.identity, dataset.rows

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """Read sample `index`; SkippedImageError if its image could not be read when the cache was made."""
        if (problem := self.features.index.skipped.get(str(index))) is not None:
            raise SkippedImageError(problem)
        sample = self.texts[index]
        crop = int(torch.randint(self.crops, ())) if self.crops > 1 else 0
        sample["features"] = self.features[index * self.crops + crop]
        return sample

    def caption(self, index: int) -> str:
        """Return the report of a sample, processed."""
        return self.texts.caption(index)

    def picture(self, image_id: str) -> Image.Image:
        """Return the image of that id to look at; see `ReportDataset.picture`."""
        return self.dataset.picture(image_id)
