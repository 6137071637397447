"""What a preparation did to the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from xraygpt.preparation.record.report_counts import plain_tally
from xraygpt.preparation.record.study_record import Row
from xraygpt.preparation.record.tallies import HashSample, Tally

SIDE_LIMITS = (128, 256, 512, 1024, 1536, 2048, 2560, 3072, 4096)
"""Upper ends of the ranges in which longest sides are counted, in pixels."""
SHOWN = 24


@dataclass(frozen=True, slots=True)
class ShownPicture:
    """One image of the contact sheet."""

    image_id: str
    split: str
    view: str


class PictureCounts:
    """Counts over images; `add` takes the rows of the record."""

    def __init__(self) -> None:
        self.written = 0
        self.refused = Tally()
        """Reason -> images that cannot be used."""
        self.left_out = Tally()
        """Reason -> images that were not asked for, such as lateral views."""
        self.notes = Tally()
        """What was noticed about images that were written."""
        self.views: Counter[str] = Counter()
        self.written_in: Counter[str] = Counter()
        """Images written for each split."""
        self.original_sides: Counter[int] = Counter()
        """Images written by their longest side before, in pixels."""
        self.sides: Counter[int] = Counter()
        """Images written by their longest side, in pixels."""
        self.bytes = 0
        self.largest_bytes = 0
        self._sample: HashSample[ShownPicture] = HashSample(SHOWN)

    def add(self, row: Row, written: Iterable[Row]) -> None:
        """Count the images of one study; `written` are those that were written for it."""
        for picture in row.get("pictures", ()):
            reason = picture.get("reason") or "no reason given"
            if picture.get("outcome") == "refused":
                self.refused.add(reason, picture["image_id"])
            elif picture.get("outcome") == "left out":
                self.left_out.add(reason, picture["image_id"])
        for picture in written:
            self._add_written(picture, row.get("split") or "")

    def shown(self) -> list[ShownPicture]:
        """Return the images of the contact sheet: a few, chosen by their names alone."""
        return self._sample.items()

    def plain(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {
            "written": self.written,
            "written_in_split": dict(self.written_in),
            "refused": plain_tally(self.refused),
            "left_out": plain_tally(self.left_out),
            "notes": plain_tally(self.notes),
            "views": dict(self.views),
            "longest_side_before": side_ranges(self.original_sides),
            "longest_side": side_ranges(self.sides),
            "bytes": self.bytes,
            "largest_bytes": self.largest_bytes,
            "shown": [picture.image_id for picture in self.shown()],
        }

    def _add_written(self, picture: Row, split: str) -> None:
        image_id, view = picture["image_id"], picture.get("view", "")
        self.written += 1
        self.written_in[split] += 1
        self.views[view or "not known"] += 1
        self.original_sides[max(picture["original_width"], picture["original_height"])] += 1
        self.sides[max(picture["width"], picture["height"])] += 1
        self.bytes += picture["bytes"]
        self.largest_bytes = max(self.largest_bytes, picture["bytes"])
        for note in picture.get("notes", ()):
            self.notes.add(note, image_id)
        if self._sample.wants(image_id):
            self._sample.add(image_id, ShownPicture(image_id, split, view))


def side_ranges(sides: Counter[int]) -> list[tuple[str, int]]:
    """Return (range of pixels, count) from the first range that occurs to the last."""
    limits = [(0, SIDE_LIMITS[0]), *pairwise(SIDE_LIMITS)]
    counted = [
        (f"{low + 1} to {high}", sum(n for side, n in sides.items() if low < side <= high))
        for low, high in limits
    ]
    counted.append((f"over {SIDE_LIMITS[-1]}", sum(n for side, n in sides.items() if side > SIDE_LIMITS[-1])))
    present = [index for index, (_, count) in enumerate(counted) if count]
    return counted[present[0] : present[-1] + 1] if present else []
