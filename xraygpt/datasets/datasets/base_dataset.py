"""A data set in the reference's on-disk format: annotation files and a folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from torch.utils.data import Dataset

from xraygpt.common.errors import DataError
from xraygpt.datasets.batch import Batch, Sample, collate
from xraygpt.datasets.datasets.annotations import Annotation, normalise_split, read_annotations
from xraygpt.datasets.datasets.images import locate_images
from xraygpt.processors.base_processor import BaseProcessor


class BaseDataset(Dataset[Sample]):
    """The annotations of one split and the files of their images.

    Args:
        vis_processor: image -> tensor; None leaves a PIL image.
        text_processor: report -> text; None leaves it as it is.
        vis_root: folder of the images; None for a text-only data set.
        ann_paths: annotation files, joined in this order.
        split: the split to keep.
        skip_corrupt: leave out images that cannot be decoded instead of stopping at them.

    Raises:
        MissingFileError, DataError: an annotation file or an image that is absent or malformed, or no
            annotation of this split.
    """

    name: ClassVar[str] = "base"
    """Goes into every sample as its `source`."""
    synthetic: ClassVar[bool] = False
    """The images show no patient."""
    obtained_from: ClassVar[str] = ""
    """Where its images and reports can be had, for the error that they are not there."""
    suffixes: ClassVar[tuple[str, ...]] = (".jpg", ".jpeg", ".png")
    """Endings of image files, in order of preference."""

    def __init__(
        self,
        vis_processor: BaseProcessor | None = None,
        text_processor: BaseProcessor | None = None,
        vis_root: str | Path | None = None,
        ann_paths: Sequence[str | Path] = (),
        split: str = "train",
        skip_corrupt: bool = False,
    ) -> None:
        self.vis_processor = vis_processor or BaseProcessor()
        self.text_processor = text_processor or BaseProcessor()
        self.vis_root = None if vis_root is None else Path(vis_root)
        self.split = normalise_split(split)
        self.skip_corrupt = skip_corrupt
        every = [row for path in ann_paths for row in read_annotations(Path(path))]
        self.annotation: list[Annotation] = [row for row in every if row.split == self.split]
        if not self.annotation:
            files = ", ".join(map(str, ann_paths)) or "no annotation file"
            there = ", ".join(sorted({row.split for row in every})) or "none"
            raise DataError(f"{files}: no annotation of the split '{self.split}' (splits there: {there})")
        self.image_paths: list[Path] = []
        if self.vis_root is not None:
            named = ((row.image_id, row.place) for row in self.annotation)
            self.image_paths = locate_images(self.vis_root, named, self.suffixes)

    def __len__(self) -> int:
        return len(self.annotation)

    def collater(self, samples: Sequence[Sample]) -> Batch:
        """Put samples together (see `xraygpt.datasets.batch.collate`)."""
        return collate(samples)

    def set_processors(self, vis_processor: BaseProcessor, text_processor: BaseProcessor) -> None:
        """Use other processors from now on."""
        self.vis_processor = vis_processor
        self.text_processor = text_processor
