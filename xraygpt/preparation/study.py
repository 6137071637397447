"""What every source of raw data is turned into: studies with the sections of a report and unopened images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of a study, not opened yet."""

    image_id: str
    """Stem of the file that it becomes; letters, digits, ``.``, ``_`` and ``-`` only."""
    file: Path | None
    """Where it lies; None where its source hands out the bytes itself (see `PictureStream`)."""
    view: str = ""
    """``PA``, ``AP``, ``LATERAL``, ... as the source says; "" where it does not."""


@dataclass(frozen=True, slots=True)
class Study:
    """One examination: a report and the images taken in it."""

    study_id: str
    sections: Mapping[str, str]
    """Section name in lower case (``findings``, ``impression``, ``comparison``, ...) -> text, whitespace
    joined; absent sections are absent or empty."""
    pictures: tuple[Picture, ...] = ()
    patient_id: str = ""
    """The collection's pseudonym of the patient; "" where it gives none."""
    split: str | None = None
    """The published split; None where one is to be drawn."""
    skipped_pictures: Mapping[str, str] = field(default_factory=dict)
    """Images that the source itself leaves out: image id -> why (``view is LATERAL``, ``no such file``)."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """Something in the raw data that gives no study."""

    place: str
    """File, archive member or table row."""
    reason: str


class Source(Protocol):
    """Raw data as published."""

    name: str
    """How the record calls it: ``openi``, ``mimic-cxr``, ``folder``."""

    def studies(self) -> Iterator[Study | Unusable]:
        """Go through all studies, always in the same order, without holding them in memory."""


class PictureStream(Protocol):
    """A source whose images come in an order of their own, such as those of a compressed archive."""

    skipped_members: list[Unusable]
    """What `picture_files` left out."""

    def picture_files(self, wanted: frozenset[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (image id, content of the file) for the ids in `wanted` that there are."""


def in_several_splits(named: Iterable[tuple[str, str]]) -> list[str]:
    """Return ``name: test, train`` for each name of (name, split) that has more than one split."""
    splits: dict[str, set[str]] = defaultdict(set)
    for name, split in named:
        splits[name].add(split)
    return [f"{name}: {', '.join(sorted(found))}" for name, found in splits.items() if len(found) > 1]
