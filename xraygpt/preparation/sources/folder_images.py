"""The image files that a table names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from xraygpt.common.paths import leads_outside
from xraygpt.preparation.sources.names import image_ids


class FolderImages:
    """Images below a folder, by their paths in it. None of them is opened."""

    def __init__(self, folder: Path, paths: Iterable[str]) -> None:
        """Args:
        folder: where the paths count from.
        paths: all that will be asked for; the image ids are made from them.
        """
        self.folder = folder
        self.ids = image_ids(path for path in paths if path)
        """Path -> image id."""
        self._real_folder = os.path.join(os.path.realpath(folder), "")

    def problem(self, path: str) -> str:
        """Return why an image cannot be used, or "". A link may not lead out of the folder."""
        outside = leads_outside(path)
        if outside:
            return outside
        file = self.folder / path
        try:
            real = os.path.realpath(file)
            if not os.path.isfile(real):
                return "no such file"
        except ValueError:  # a zero byte
            return "no such file"
        return "" if real.startswith(self._real_folder) else "is a link that leads out of the images' folder"
