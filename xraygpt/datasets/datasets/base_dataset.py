"""A data set in the reference's on-disk format: annotation files and a folder of images or shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from torch.utils.data import Dataset

from xraygpt.common.errors import DataError, summarise
from xraygpt.common.tables import normalise_split
from xraygpt.datasets.batch import Batch, Sample, collate
from xraygpt.datasets.datasets.annotations import Annotation, read_annotations
from xraygpt.datasets.datasets.images import ImageStore, open_folder
from xraygpt.pictures.reading import IMAGE_SUFFIXES
from xraygpt.processors.base_processor import BaseProcessor


class BaseDataset(Dataset[Sample]):
    """The annotations of one split and the store of their images.

    Args:
        vis_processor: image -> tensor; None leaves a PIL image.
        text_processor: report -> text; None leaves it as it is.
        vis_root: folder of the images or of shards, or a store that is open already, which may hold images of
            other splits too; None for a text-only data set.
        ann_paths: annotation files, joined in this order.
        split: the split to keep.
        skip_corrupt: leave out images that cannot be decoded instead of stopping at them.
        annotations: rows that are read already, of any splits, in place of `ann_paths`.

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
    suffixes: ClassVar[tuple[str, ...]] = IMAGE_SUFFIXES
    """Endings of image files, in order of preference."""

    def __init__(
        self,
        vis_processor: BaseProcessor | None = None,
        text_processor: BaseProcessor | None = None,
        vis_root: str | Path | ImageStore | None = None,
        ann_paths: Sequence[str | Path] = (),
        split: str = "train",
        skip_corrupt: bool = False,
        annotations: Sequence[Annotation] | None = None,
    ) -> None:
        self.vis_processor = vis_processor or BaseProcessor()
        self.text_processor = text_processor or BaseProcessor()
        self.split = normalise_split(split)
        self.skip_corrupt = skip_corrupt
        if annotations is None:
            annotations = [row for path in ann_paths for row in read_annotations(Path(path))]
        self.annotation: list[Annotation] = [row for row in annotations if row.split == self.split]
        if not self.annotation:
            files = ", ".join(map(str, ann_paths)) or "no annotation file"
            there = ", ".join(sorted({row.split for row in annotations})) or "none"
            raise DataError(f"{files}: no annotation of the split '{self.split}' (splits there: {there})")
        if isinstance(vis_root, str | Path):
            vis_root = open_folder(Path(vis_root), self.suffixes)
        self.images: ImageStore | None = vis_root
        if self.images is not None:
            self._check_images(self.images)

    def __len__(self) -> int:
        return len(self.annotation)

    def caption(self, index: int) -> str:
        """Return the report of sample `index`, processed."""
        raise NotImplementedError(f"{type(self).__name__} has to give the report of a sample.")

    def collater(self, samples: Sequence[Sample]) -> Batch:
        """Put samples together (see `xraygpt.datasets.batch.collate`)."""
        return collate(samples)

    def set_processors(self, vis_processor: BaseProcessor, text_processor: BaseProcessor) -> None:
        """Use other processors from now on."""
        self.vis_processor = vis_processor
        self.text_processor = text_processor

    def _check_images(self, images: ImageStore) -> None:
        absent = [f"{row.image_id} ({row.place})" for row in self.annotation if row.image_id not in images]
        if absent:
            raise DataError(f"{images}: " + summarise("images are named but absent", absent))
