"""Finding and reading image files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.datasets.datasets.annotations import summarise


class SkippedImageError(DataError):
    """A corrupt image that the configuration allows to leave out (`skip_corrupt`)."""


def locate_images(folder: Path, named: Iterable[tuple[str, str]], suffixes: Sequence[str]) -> list[Path]:
    """Return the file of every image id: ``<folder>/<image_id><suffix>``, first suffix that exists.

    The folder is listed once instead of asking for each of maybe 377,110 files.

    Args:
        named: image ids, each with the place that names it, for messages.

    Raises:
        DataError: the folder or images are absent; gives their number and names the first few.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; the images belong there, as <image_id>{suffixes[0]}")
    with os.scandir(folder) as entries:
        present = {entry.name for entry in entries}
    found: list[Path] = []
    absent: list[str] = []
    for image_id, place in named:
        names = [image_id + suffix for suffix in suffixes]
        # An id with a folder in it ("p10/p10000032/...") is not in the listing.
        nested = "/" in image_id
        hit = next((n for n in names if (folder / n).is_file() if nested or n in present), None)
        if hit is None:
            absent.append(f"{image_id} ({place})")
        else:
            found.append(folder / hit)
    if absent:
        endings = " or ".join(suffixes)
        raise DataError(f"{folder}: " + summarise(f"images are named but absent (as {endings})", absent))
    return found


def read_image(path: Path, decode_size: int | None = None) -> Image.Image:
    """Decode an image file.

    Args:
        decode_size: a JPEG is decoded at a half, quarter or eighth of its size as long as both sides keep
            this many pixels, which is several times faster; None decodes at full size.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            if decode_size is not None:
                image.draft(None, (decode_size, decode_size))
            image.load()
            return image
    # Pillow reports damage by all of these, depending on the format.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from error
