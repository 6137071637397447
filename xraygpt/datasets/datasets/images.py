"""Where a data set's images lie, and reading them: files in a folder, or the members of shards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.common.paths import leads_outside
from xraygpt.pictures.reading import IMAGE_SUFFIXES, is_image_file, read_image

__all__ = ["IMAGE_SUFFIXES", "ImageStore", "LooseImages", "SkippedImageError", "read_image"]


class SkippedImageError(DataError):
    """A corrupt image that the configuration allows to leave out (`skip_corrupt`)."""


class ImageStore(Protocol):
    """The images of a data set by their ids.

    A store goes into the loading processes with its data set, so it can be pickled, and reading takes no
    lock and moves no file position that processes or threads share. As text it says where the images are.
    """

    def __contains__(self, image_id: str, /) -> bool: ...

    def image_ids(self) -> list[str]:
        """Return the ids of all images, in a fixed order."""

    def place(self, image_id: str) -> str:
        """Return where the image lies, for people.

        Raises:
            DataError: there is no such image.
        """

    def read(self, image_id: str, decode_size: int | None = None) -> Image.Image:
        """Decode an image (see `read_image`).

        Raises:
            DataError: there is no such image, or it cannot be read.
        """


class LooseImages:
    """Image files in a folder or in folders below it.

    An image id is a file's path below the folder, with its suffix or without. Each folder is listed once
    instead of asking for each of maybe 377,110 files.

    Args:
        suffixes: endings of the files, in order of preference.

    Raises:
        DataError: no such folder.
    """

    def __init__(self, folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; the images belong there, as <image_id>{suffixes[0]}")
        self.folder = folder
        self.suffixes = tuple(suffixes)
        self._listings: dict[str, frozenset[str]] = {}

    def __str__(self) -> str:
        return f"{self.folder} ({' or '.join(self.suffixes)})"

    def __contains__(self, image_id: str) -> bool:
        return self._path_below(image_id) is not None

    def image_ids(self) -> list[str]:
        """Return the path of each image file in or below the folder, sorted; hidden ones are passed over.

        Raises:
            DataError: a folder cannot be listed.
        """

        def fail(error: OSError) -> None:
            raise DataError(f"{error.filename}: cannot be listed ({error.strerror})") from error

        found: list[str] = []
        for root, folders, files in os.walk(self.folder, onerror=fail):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = Path(root).relative_to(self.folder)
            shown = [name for name in files if not name.startswith(".")]
            found += [(below / name).as_posix() for name in shown if is_image_file(Path(root, name))]
        return sorted(found)

    def find(self, image_id: str) -> Path | None:
        """Return the image's file, or None where there is none or the id leads out of the folder."""
        path = self._path_below(image_id)
        return None if path is None else self.folder / path

    def place(self, image_id: str) -> str:
        """Return the path of the image's file."""
        return str(self._file(image_id))

    def read(self, image_id: str, decode_size: int | None = None) -> Image.Image:
        """Decode an image (see `read_image`).

        Raises:
            DataError: there is no such image, or it cannot be read.
        """
        return read_image(self._file(image_id), decode_size)

    def _file(self, image_id: str) -> Path:
        file = self.find(image_id)
        if file is None:
            raise DataError(f"{self}: there is no image '{image_id}'")
        return file

    def _path_below(self, image_id: str) -> str | None:
        """Return the path of the image's file below the folder, or None."""
        parent, slash, name = image_id.rpartition("/")
        if not name or leads_outside(image_id):
            return None
        present = self._listing(parent)
        names = (*(name + suffix for suffix in self.suffixes), name)
        return next((parent + slash + file for file in names if file in present), None)

    def _listing(self, below: str) -> frozenset[str]:
        """Return the names of the files in a folder below the root; none if there is no such folder."""
        if below not in self._listings:
            try:
                with os.scandir(self.folder / below) as entries:
                    names = frozenset(entry.name for entry in entries if entry.is_file())
            except (FileNotFoundError, NotADirectoryError):
                names = frozenset()
            except (OSError, ValueError) as error:  # ValueError: a null character in the name
                raise DataError(f"{self.folder / below}: cannot be listed ({error})") from error
            self._listings[below] = names
        return self._listings[below]
