"""Counting and listing corrupt images that are left out."""

from __future__ import annotations

import logging
from pathlib import Path

SKIPPED_FILE = "skipped_images.txt"

logger = logging.getLogger(__name__)


class SkippedImages:
    """Writes each skipped image once to ``skipped_images.txt`` and warns about it.

    The count is of the images that this process has met; the file is the list of a whole run, to which all
    processes and, when it is resumed, all its parts add.
    """

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / SKIPPED_FILE
        self._met: set[str] = set()

    def __len__(self) -> int:
        return len(self._met)

    def add(self, messages: list[str]) -> None:
        """Take note of images, each given as one line of text that says which and why."""
        for message in (text.replace("\n", " ") for text in messages):
            if message in self._met:
                continue
            self._met.add(message)
            if message not in self._listed():
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(message + "\n")
            logger.warning("skipped corrupt image number %d: %s", len(self), message)

    def _listed(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
