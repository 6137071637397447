"""Where a data set's images lie, and reading them: files in a folder, or the members of shards."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from xraygpt.common.errors import DataError, summarise
from xraygpt.common.paths import leads_outside
from xraygpt.datasets.datasets.shard_index import SHARD_FOLDER, file_problems, has_index, read_index
from xraygpt.pictures.reading import IMAGE_SUFFIXES, is_image_file, read_image

IMAGE_FOLDER = "image"
"""What the loose images lie in, below the folder of a data set."""
MAX_OPEN = 128
"""Shards that a process keeps open."""


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

    def stamp(self, image_id: str) -> str:
        """Return words that change when the image's file does.

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

    def stamp(self, image_id: str) -> str:
        """Return path, size in bytes and time of change of the image's file."""
        state = self._file(image_id).stat()
        return f"{self._path_below(image_id)} {state.st_size} {state.st_mtime_ns}"

    def read(self, image_id: str, decode_size: int | None = None) -> Image.Image:
        """Decode an image; see `ImageStore.read`."""
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


class ShardedImages:
    """The images of a folder of shards, read from the tars by their place in the index.

    Tars are opened when they are first read from, in each process for itself, and read by `os.pread`, which
    neither uses nor moves the file position that forked processes and threads share.

    Raises:
        MissingFileError: the folder has no index.
        DataError: the index is damaged, or tars are absent or of another size than the index says.
    """

    def __init__(self, folder: Path) -> None:
        shards = read_index(folder)
        if problems := file_problems(folder, shards):
            raise DataError(f"{folder}: " + summarise("damaged shards (prepare them again)", problems))
        self.folder = folder
        self._names = [shard.name for shard in shards]
        self._hashes = [shard.sha256 for shard in shards]
        self._rows = {
            image_id: row
            for row, image_id in enumerate(member.image_id for shard in shards for member in shard.images)
        }
        # Arrays: of 377,110 images, tuples of Python numbers would take 80 MB, in every spawned process.
        self._shard_of = np.repeat(np.arange(len(shards)), [len(shard.images) for shard in shards])
        spans = [(member.offset, member.size) for shard in shards for member in shard.images]
        self._spans = np.array(spans, dtype=np.int64).reshape(-1, 2)
        self._open = _opener()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = _opener()

    def __str__(self) -> str:
        return f"{self.folder} (shards)"

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._rows

    def image_ids(self) -> list[str]:
        """Return the ids of all images, in the order of the shards."""
        return list(self._rows)

    def place(self, image_id: str) -> str:
        """Return the tar and the image's name."""
        return f"{self._tar(self._row(image_id))}: {image_id}"

    def stamp(self, image_id: str) -> str:
        """Return the image's name, its place in the tar, and the tar's hash as the index has it."""
        row = self._row(image_id)
        offset, size = self._spans[row].tolist()
        return f"{image_id} {offset} {size} {self._hashes[self._shard_of[row]]}"

    def read(self, image_id: str, decode_size: int | None = None) -> Image.Image:
        """Decode an image; see `ImageStore.read`."""
        row = self._row(image_id)
        offset, size = self._spans[row].tolist()
        place = self.place(image_id)
        try:
            data = os.pread(self._open(self._tar(row)).descriptor, size, offset)
        except OSError as error:
            raise DataError(f"{place}: cannot be read ({error})") from error
        return read_image(data, decode_size, place)

    def _row(self, image_id: str) -> int:
        row = self._rows.get(image_id)
        if row is None:
            raise DataError(f"{self}: there is no image '{image_id}'")
        return row

    def _tar(self, row: int) -> Path:
        return self.folder / self._names[self._shard_of[row]]


class HeldImages:
    """Images whose files are held in memory, in the bytes that they were stored in.

    Args:
        files: image id -> content.
        places: image id -> where it came from.
    """

    def __init__(self, files: Mapping[str, bytes], places: Mapping[str, str]) -> None:
        self.files, self.places = files, places

    def __str__(self) -> str:
        return f"{len(self.files)} images in memory"

    def __contains__(self, image_id: str) -> bool:
        return image_id in self.files

    def image_ids(self) -> list[str]:
        """Return the ids of all images, as they came."""
        return list(self.files)

    def place(self, image_id: str) -> str:
        """Return where the image came from."""
        if image_id not in self.places:
            raise DataError(f"{self}: there is no image '{image_id}'")
        return self.places[image_id]

    def stamp(self, image_id: str) -> str:
        """Return the hash of the image's content."""
        self.place(image_id)
        return f"{image_id} {hashlib.sha256(self.files[image_id]).hexdigest()}"

    def read(self, image_id: str, decode_size: int | None = None) -> Image.Image:
        """Decode an image; see `ImageStore.read`."""
        place = self.place(image_id)
        return read_image(self.files[image_id], decode_size, place)


class _OpenFile:
    """A file that is closed when nobody uses it any more."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        # Absent where opening failed.
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def _opener() -> functools._lru_cache_wrapper[_OpenFile]:
    return functools.lru_cache(MAX_OPEN)(_OpenFile)


def open_folder(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> ImageStore:
    """Return the images of a folder of shards (it has their index) or of image files.

    Raises:
        DataError, MissingFileError: no such folder, or damaged shards.
    """
    return ShardedImages(folder) if has_index(folder) else LooseImages(folder, suffixes)


def open_storage(storage: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> ImageStore:
    """Return the images of a prepared folder: ``image/``, or where there is none ``shards/``.

    Where there are both, ``image/`` counts: it is what a user can look into and correct.

    Raises:
        DataError, MissingFileError: neither is there, or damaged shards.
    """
    images, shards = storage / IMAGE_FOLDER, storage / SHARD_FOLDER
    if images.is_dir():
        return LooseImages(images, suffixes)
    if shards.is_dir():
        return ShardedImages(shards)
    raise DataError(
        f"{storage}: no images; they belong there as {IMAGE_FOLDER}/<image_id>{suffixes[0]}, or as tars and "
        f"their index in {SHARD_FOLDER}/; data_type: text needs none"
    )
