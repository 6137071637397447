"""Images with a report each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.datasets.batch import Sample
from xraygpt.datasets.datasets.base_dataset import BaseDataset
from xraygpt.datasets.datasets.images import SkippedImageError, read_image
from xraygpt.processors.image_modes import to_rgb

PICTURE_SIZE = 512  # enough to look at; a JPEG is not decoded much larger


class CaptionDataset(BaseDataset):
    """Yields an image and its report; the one `__getitem__` of all image-report data here."""

    name = "caption"

    def __getitem__(self, index: int) -> Sample:
        """Read sample `index`.

        Raises:
            DataError: the image cannot be decoded; SkippedImageError if it may be left out.
        """
        row = self.annotation[index]
        sample: Sample = {
            "caption": self.text_processor(row.caption),
            "image_id": row.image_id,
            "study_id": row.study_id,
            "source": self.name,
        }
        if self.image_paths:
            sample["image"] = self.vis_processor(self.open_image(index))
        return sample

    def open_image(self, index: int) -> Image.Image:
        """Decode the image of sample `index`, no larger than the processor needs it."""
        try:
            return read_image(self.image_paths[index], getattr(self.vis_processor, "decode_size", None))
        except DataError as error:
            where = f"{self.annotation[index].place}: {error}"
            if self.skip_corrupt:
                raise SkippedImageError(where) from error
            raise DataError(f"{where}; remove it, or set skip_corrupt: true for this data set") from error

    def picture(self, image_id: str) -> Image.Image:
        """Return the image of that id to look at: 8-bit RGB, uncropped, in its own proportions.

        Raises:
            DataError: there is no such image, or it cannot be decoded.
        """
        for index, row in enumerate(self.annotation):
            if row.image_id == image_id and self.image_paths:
                return to_rgb(read_image(self.image_paths[index], PICTURE_SIZE))
        raise DataError(f"the data set {self.name} has no image '{image_id}' in its split '{self.split}'")

    def displ_item(self, index: int) -> dict[str, Any]:
        """Return what to show of sample `index`: file, report and image."""
        path: Path = self.image_paths[index]
        return {
            "file": path.name,
            "caption": self.annotation[index].caption,
            "image": read_image(path),
        }
