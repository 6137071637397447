"""Find the pictures of images in a folder, for pages that show them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.pictures.reading import is_image_file, read_image


class PictureFolder:
    """Image id -> picture, from the image files, DICOM included, in a folder and the folders in it.

    A file belongs to an image id that is its name, with or without the ending, alone or with its place in
    the folder.

    Args:
        folder: is searched once.

    Raises:
        MissingFileError, DataError: it is not there; it has no picture.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise MissingFileError(f"{folder}: no such folder (of pictures)")
        self.files: dict[str, Path] = {}
        for file in sorted(folder.rglob("*")):
            if file.is_file() and is_image_file(file):
                place = file.relative_to(folder)
                for name in (place.as_posix(), place.with_suffix("").as_posix(), file.name, file.stem):
                    self.files.setdefault(name, file)
        if not self.files:
            raise DataError(f"{folder}: holds no picture; JPEG, PNG, TIFF, DICOM and the like can be shown")

    def __call__(self, image_id: str) -> Image.Image | None:
        """Return the picture, 8-bit grey or RGB; None where there is none.

        Raises:
            DataError: the file cannot be read.
        """
        file = self.files.get(image_id)
        return None if file is None else read_image(file)
