"""What a preparation did to reports and images, counted in memory that hardly grows with them."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Generic, TypeVar

from xraygpt.preparation.record.studies import NAMED, Row

T = TypeVar("T")

MAX_KEYS = 100
OTHERS = "others"
EXAMPLES = 3
CHANGES_SHOWN = 3
MAX_TEXT = 600
PERCENTILES = (5, 25, 50, 75, 95)
STATUS_NAMES = {1: "positive", -1: "uncertain", 0: "negative"}
SIDE_LIMITS = (128, 256, 512, 1024, 1536, 2048, 2560, 3072, 4096)
"""Upper ends of the ranges in which longest sides are counted, in pixels."""
SHOWN = 24


def hash_of(text: str) -> int:
    """Return a 64-bit hash, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


@dataclass(slots=True)
class Places:
    """How often something occurred, and where the first times."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(name)


class Tally:
    """`Places` for each of several things; beyond `MAX_KEYS` of them the rest are counted together."""

    def __init__(self) -> None:
        self._places: dict[str, Places] = {}

    def add(self, key: str, name: str) -> None:
        """Count one more `key`, at the place `name`."""
        if key not in self._places and len(self._places) >= MAX_KEYS:
            key = OTHERS
        self._places.setdefault(key, Places()).add(name)

    def __iter__(self) -> Iterator[tuple[str, Places]]:
        """Go through the keys, most frequent first."""
        return iter(sorted(self._places.items(), key=lambda item: (-item[1].count, item[0])))

    def __len__(self) -> int:
        return len(self._places)

    def total(self) -> int:
        """Return the count over all keys."""
        return sum(places.count for places in self._places.values())

    def plain(self) -> dict[str, Any]:
        """Return the counts and first places as plain values, for JSON."""
        return {key: asdict(places) for key, places in self}


class HashSample(Generic[T]):
    """Keeps the `size` items whose keys have the smallest hashes: the same choice in whatever order."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[int, str, T]] = []

    def wants(self, key: str) -> bool:
        """Tell whether an item of this key would be kept, so that it need not be made otherwise."""
        return len(self._heap) < self._size or -hash_of(key) > self._heap[0][0]

    def add(self, key: str, item: T) -> None:
        """Offer an item; only the first of a key counts."""
        if not self.wants(key) or any(key == kept for _, kept, _ in self._heap):
            return
        entry = (-hash_of(key), key, item)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def items(self) -> list[T]:
        """Return what was kept, by key."""
        return [item for _, key, item in sorted(self._heap, key=lambda entry: entry[1])]


@dataclass(frozen=True, slots=True)
class Example:
    """What a rule did to one report."""

    study_id: str
    detail: str
    """Why the report was dropped or rejected; "" for a rule that changed it."""
    changes: tuple[tuple[str, str], ...]
    """(before, after) of the sentences concerned."""


@dataclass
class LabelCounts:
    """How many reports assert, suspect and deny a finding: status name -> count."""

    before: Counter[str] = field(default_factory=Counter)
    """All reports, before the cleaning."""
    kept_before: Counter[str] = field(default_factory=Counter)
    """The reports that are kept, before the cleaning."""
    kept_after: Counter[str] = field(default_factory=Counter)
    """The reports that are kept, after it."""


class ReportCounts:
    """Counts over reports; `add` takes the rows of the record."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        """Reports by outcome: kept, dropped, rejected."""
        self.refusals: dict[str, Tally] = {"dropped": Tally(), "rejected": Tally()}
        """Outcome -> rule -> studies."""
        self.uncleaned = Tally()
        """Reason -> reports that are kept as they were."""
        self.kept_in: Counter[str] = Counter()
        """Kept reports of each split."""
        self.words: Counter[int] = Counter()
        """Kept captions by their number of words."""
        self.changed_reports: Counter[str] = Counter()
        """Rule -> reports that it changed."""
        self.changed_sentences: Counter[str] = Counter()
        """Rule -> sentences that it changed."""
        self.labels: defaultdict[str, LabelCounts] = defaultdict(LabelCounts)
        self._examples: defaultdict[str, HashSample[Example]] = defaultdict(lambda: HashSample(EXAMPLES))

    def add(self, row: Row) -> None:
        """Count one study."""
        outcome, study_id = row["outcome"], row["study_id"]
        self.outcomes[outcome] += 1
        changes = row.get("changes", ())
        if outcome == "kept":
            self.kept_in[row.get("split") or ""] += 1
            self.words[len(row["caption"].split())] += 1
            if row.get("detail"):
                self.uncleaned.add(row["detail"], study_id)
        else:
            rule = row.get("rule") or "unnamed rule"
            self.refusals[outcome].add(rule, study_id)
            shown = changes if outcome == "rejected" else ()
            self._add_example(rule, study_id, row.get("detail", ""), shown)
        sentences = Counter(change["rule"] for change in changes)
        self.changed_sentences.update(sentences)
        for rule in sentences:
            self.changed_reports[rule] += 1
            self._add_example(rule, study_id, "", [c for c in changes if c["rule"] == rule])
        self._add_labels(row, outcome == "kept")

    def examples(self, rule: str) -> list[Example]:
        """Return a few reports that the rule changed or refused."""
        return self._examples[rule].items() if rule in self._examples else []

    def word_figures(self) -> dict[str, float]:
        """Return number of captions, mean and percentiles of their words; empty if there are none."""
        total = sum(self.words.values())
        if not total:
            return {}
        mean = sum(words * count for words, count in self.words.items()) / total
        figures = {"mean": round(mean, 2), "least": min(self.words), "most": max(self.words)}
        return figures | {f"percentile_{p}": percentile(self.words, p) for p in PERCENTILES}

    def plain(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {
            "read": self.outcomes.total(),
            **{outcome: self.outcomes[outcome] for outcome in ("kept", "dropped", "rejected")},
            "refused_by": {outcome: tally.plain() for outcome, tally in self.refusals.items()},
            **({"uncleaned": self.uncleaned.plain()} if len(self.uncleaned) else {}),
            "kept_in_split": dict(self.kept_in),
            "words_of_kept": self.word_figures(),
            "changed_reports": dict(self.changed_reports),
            "changed_sentences": dict(self.changed_sentences),
            "labels": {
                label: {name: dict(counts) for name, counts in vars(found).items()}
                for label, found in self.labels.items()
            },
            "examples": {
                rule: [
                    {"study_id": e.study_id, "detail": e.detail, "changes": [list(c) for c in e.changes]}
                    for e in sample.items()
                ]
                for rule, sample in self._examples.items()
            },
        }

    def _add_example(self, rule: str, study_id: str, detail: str, changes: Sequence[Row]) -> None:
        sample = self._examples[rule]
        key = f"{rule} {study_id}"
        if sample.wants(key):
            shown = tuple((_clip(c["before"]), _clip(c["after"])) for c in changes[:CHANGES_SHOWN])
            sample.add(key, Example(study_id, _clip(detail), shown))

    def _add_labels(self, row: Row, kept: bool) -> None:
        before, after = row.get("labels_before") or {}, row.get("labels_after") or {}
        for label, status in before.items():
            counts = self.labels[label]
            counts.before[STATUS_NAMES[status]] += 1
            if kept:
                counts.kept_before[STATUS_NAMES[status]] += 1
        if kept:
            for label, status in after.items():
                self.labels[label].kept_after[STATUS_NAMES[status]] += 1


def percentile(counts: Counter[int], percent: float) -> int:
    """Return the smallest value that at least `percent` % of the counted values do not exceed."""
    wanted = percent / 100 * counts.total()
    reached = 0
    for value in sorted(counts):
        reached += counts[value]
        if reached >= wanted:
            return value
    raise ValueError("nothing was counted")


def _clip(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


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
            "refused": self.refused.plain(),
            "left_out": self.left_out.plain(),
            "notes": self.notes.plain(),
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
