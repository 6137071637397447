"""Images with a report each."""

from __future__ import annotations

from typing import Any

from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.common.image_modes import to_rgb
from xraygpt.datasets.batch import Sample
from xraygpt.datasets.datasets.base_dataset import BaseDataset
from xraygpt.datasets.datasets.images import ImageStore, SkippedImageError

PICTURE_SIZE = 512  # enough to look at; a JPEG is not decoded much larger


class CaptionDataset(BaseDataset):
    """Yields an image and its report; the one `__getitem__` of all image-report data here."""

    name = "caption"
    obtained_from = "xraygpt prepare (see its --help)"

    def __getitem__(self, index: int) -> Sample:
        """Read sample `index`.

        Raises:
            DataError: the image cannot be decoded; SkippedImageError if it may be left out.
        """
        row = self.annotation[index]
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
        return self.text_processor(self.annotation[index].caption)

    def open_image(self, index: int) -> Image.Image:
        """Decode the image of sample `index`, no larger than the processor needs it."""
        row = self.annotation[index]
        try:
            return self._store().read(row.image_id, getattr(self.vis_processor, "decode_size", None))
        except DataError as error:
            where = f"{row.place}: {error}"
            if self.skip_corrupt:
                raise SkippedImageError(where) from error
            raise DataError(f"{where}; remove it, or set datasets.{self.name}.skip_corrupt: true") from error

    def picture(self, image_id: str) -> Image.Image:
        """Return the image of that id to look at: 8-bit RGB, uncropped, in its own proportions.

        Raises:
            DataError: there is no such image, or it cannot be decoded.
        """
        # The store may hold other splits' images too.
        if any(row.image_id == image_id for row in self.annotation):
            return to_rgb(self._store().read(image_id, PICTURE_SIZE))
        raise DataError(f"the data set {self.name} has no image '{image_id}' in its split '{self.split}'")

    def displ_item(self, index: int) -> dict[str, Any]:
        """Return what to show of sample `index`: where its image lies, report and image."""
        row, images = self.annotation[index], self._store()
        return {
            "file": images.place(row.image_id),
            "caption": row.caption,
            "image": images.read(row.image_id),
        }

    def _store(self) -> ImageStore:
        if self.images is None:
            raise DataError(f"the data set {self.name} was opened without its images (data_type: text)")
        return self.images
