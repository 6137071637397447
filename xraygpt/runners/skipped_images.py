"""Counting and listing corrupt images that are left out."""

from __future__ import annotations

import logging
from pathlib import Path

SKIPPED_FILE = "skipped_images.txt"

logger = logging.getLogger(__name__)


class SkippedImages:
    """Writes each skipped image once to ``skipped_images.txt`` and warns about it.

    All processes append to the same file; one image may be met by two of them and is then listed twice.
    """

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / SKIPPED_FILE
        self._known: set[str] = set()
        if self.path.is_file():
            self._known.update(self.path.read_text(encoding="utf-8").splitlines())

    def __len__(self) -> int:
        return len(self._known)

    def add(self, messages: list[str]) -> None:
        """Take note of images, each given as one line of text that says which and why."""
        for message in (text.replace("\n", " ") for text in messages):
            if message in self._known:
                continue
            self._known.add(message)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(message + "\n")
            logger.warning("skipped corrupt image number %d: %s", len(self), message)
