"""What a data set is, and the one that reads the reference's format: annotation files, a folder of images."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from PIL import Image
from torch.utils.data import Dataset

from xraygpt.common.errors import ConfigError, DataError, summarise
from xraygpt.common.image_modes import to_rgb
from xraygpt.common.tables import normalise_split
from xraygpt.datasets.batch import Batch, Sample, collate
from xraygpt.datasets.datasets.annotations import Annotation, AnnotationDicts, Annotations, read_annotations
from xraygpt.datasets.datasets.images import ImageStore, SkippedImageError, open_folder
from xraygpt.pictures.reading import IMAGE_SUFFIXES
from xraygpt.processors.base_processor import BaseProcessor

PICTURE_SIZE = 512  # enough to look at; a JPEG is not decoded much larger


class ReportDataset(Dataset[Sample]):
    """One split of images with a report each: all that streams, tasks and pages ask of a data set."""

    name: ClassVar[str]
    """Goes into every sample as its `source`."""
    synthetic: ClassVar[bool] = False
    """The images show no patient."""
    identity: str = ""
    """What tells these samples from others, beside their number and `rows`."""
    rows: Sequence[Annotation] = ()
    """The annotation of each sample, in order; empty where there are none, as with phantoms."""
    images: Any
    vis_processor: Any

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} has to know its length.")

    def __getitem__(self, index: int) -> Sample:
        """Read sample `index`.

        Raises:
            DataError: it cannot be read; SkippedImageError if it may be left out.
        """
        raise NotImplementedError(f"{type(self).__name__} has to read its samples.")

    def extent(self) -> str:
        """Return how much there is, for people."""
        return str(len(self))

    def caption(self, index: int) -> str:
        """Return the report of a sample, processed, without opening its image."""
        raise NotImplementedError(f"{type(self).__name__} has to give the report of a sample.")

    def picture(self, image_id: str) -> Image.Image:
        """Return the image of that id to look at: 8-bit, uncropped, in its own proportions.

        Raises:
            DataError: there is no such image, or it cannot be decoded.
        """
        raise NotImplementedError(f"{type(self).__name__} has to give the image of an id.")

    # What a cache of features asks for beyond that

    def with_processor(self, vis_processor: BaseProcessor | None) -> Self:
        """Return this data set with another image processor; None: without images, of which none is opened.

        Raises:
            ConfigError: it has no `images` (None for none) and `vis_processor` to set, and no way of its own.
        """
        if not {"images", "vis_processor"} <= vars(self).keys():
            raise ConfigError(
                f"run.feature_cache: the data set '{self.name}' cannot be cached; {type(self).__name__} does "
                "not define with_processor and image_stamps"
            )
        other = copy.copy(self)
        if vis_processor is None:
            other.images = None
        else:
            other.vis_processor = vis_processor
        return other

    def image_stamps(self) -> Iterator[str]:
        """Yield, for each image in order, words that change when the image does."""
        raise NotImplementedError(f"{type(self).__name__} has to tell its images from changed ones.")


class BaseDataset(ReportDataset):
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
        annotations: Annotations | None = None,
    ) -> None:
        self.vis_processor = vis_processor or BaseProcessor()
        self.text_processor = text_processor or BaseProcessor()
        self.split = normalise_split(split)
        self.skip_corrupt = skip_corrupt
        if annotations is None:
            annotations = read_annotations(*map(Path, ann_paths))
        self.rows = annotations.of_split(self.split)
        if not self.rows:
            files = ", ".join(map(str, ann_paths)) or "no annotation file"
            there = ", ".join(annotations.splits()) or "none"
            raise DataError(f"{files}: no annotation of the split '{self.split}' (splits there: {there})")
        if isinstance(vis_root, str | Path):
            vis_root = open_folder(Path(vis_root), self.suffixes)
        self.images: ImageStore | None = vis_root
        if vis_root is not None:
            absent = [f"{row.image_id} ({row.place})" for row in self.rows if row.image_id not in vis_root]
            if absent:
                raise DataError(f"{vis_root}: " + summarise("images are named but absent", absent))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def annotation(self) -> Sequence[dict[str, str]]:
        """The annotations as LAVIS has them: id, caption, split, study and the file's other columns."""
        return AnnotationDicts(self.rows)

    def __getitem__(self, index: int) -> Sample:
        row = self.rows[index]
        sample: Sample = {
            "caption": self.caption(index),
            "image_id": row.image_id,
            "study_id": row.study_id,
            "source": self.name,
        }
        if self.images is not None:
            sample["image"] = self.vis_processor(self.open_image(index))
        return sample

    def caption(self, index: int) -> str:
        """Return the report of sample `index`, processed."""
        return self.text_processor(self.rows[index].caption)

    def open_image(self, index: int) -> Image.Image:
        """Decode the image of sample `index`, no larger than the processor needs it."""
        row = self.rows[index]
        try:
            return self._store().read(row.image_id, self.vis_processor.decode_size)
        except DataError as error:
            where = f"{row.place}: {error}"
            if self.skip_corrupt:
                raise SkippedImageError(where) from error
            raise DataError(f"{where}; remove it, or set datasets.{self.name}.skip_corrupt: true") from error

    def picture(self, image_id: str) -> Image.Image:
        """Return the image of that id to look at, in RGB; see `ReportDataset.picture`."""
        # The store may hold other splits' images too.
        if any(row.image_id == image_id for row in self.rows):
            return to_rgb(self._store().read(image_id, PICTURE_SIZE))
        raise DataError(f"the data set {self.name} has no image '{image_id}' in its split '{self.split}'")

    def displ_item(self, index: int) -> dict[str, Any]:
        """Return what to show of sample `index`: where its image lies, report and image."""
        row, images = self.rows[index], self._store()
        return {
            "file": images.place(row.image_id),
            "caption": row.caption,
            "image": images.read(row.image_id),
        }

    def collater(self, samples: Sequence[Sample]) -> Batch:
        """Put samples together (see `xraygpt.datasets.batch.collate`)."""
        return collate(samples)

    def set_processors(self, vis_processor: BaseProcessor, text_processor: BaseProcessor) -> None:
        """Use other processors from now on."""
        self.vis_processor = vis_processor
        self.text_processor = text_processor

    def image_stamps(self) -> Iterator[str]:
        """Yield path, size and time of change of each image's file, or its place in a shard of that hash."""
        store = self._store()
        return (store.stamp(row.image_id) for row in self.rows)

    def _store(self) -> ImageStore:
        if self.images is None:
            raise DataError(f"the data set {self.name} was opened without its images (data_type: text)")
        return self.images
