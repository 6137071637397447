"""The contact sheet of a preparation: small versions of a few images that were written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xraygpt.common.errors import XrayGPTError
from xraygpt.common.html_page import picture_url
from xraygpt.common.image_modes import to_rgb
from xraygpt.datasets.datasets.images import ImageStore, open_storage
from xraygpt.preparation.record.picture_counts import ShownPicture

TILE_SIDE = 256


@dataclass(frozen=True, slots=True)
class Tile:
    """One small image with what stands below it."""

    image_id: str
    caption: str
    """Split and view."""
    url: str
    """A JPEG as a ``data:`` URL; "" for an image that cannot be read."""


def picture_tiles(folder: Path, pictures: Iterable[ShownPicture]) -> list[Tile]:
    """Return the tiles of some images of a prepared folder, from its ``image/`` or ``shards/``.

    An image that cannot be read gets an empty tile; to name it is the task of `verify_folder`.
    """
    try:
        store = open_storage(folder)
    except XrayGPTError:
        return []
    return [
        Tile(
            picture.image_id,
            ", ".join(part for part in (picture.split, picture.view) if part),
            _url(store, picture.image_id),
        )
        for picture in pictures
    ]


def _url(store: ImageStore, image_id: str) -> str:
    try:
        image = store.read(image_id, TILE_SIDE)
    except XrayGPTError:
        return ""
    return picture_url(image if image.mode == "L" else to_rgb(image), TILE_SIDE)
