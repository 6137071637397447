"""What a preparation did, counted from its record in memory that hardly grows with it, and its page.

``preparation.html`` is a single file that asks nothing of a network; its layout is ``summary_page.html``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib.resources import files
from operator import itemgetter
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from xraygpt.common.errors import XrayGPTError
from xraygpt.common.html_page import page_environment, picture_url
from xraygpt.common.run_record import write_text
from xraygpt.datasets.datasets.images import open_storage
from xraygpt.preparation.pipeline.record import (
    LEAKS,
    OUTCOMES,
    PAGE_FILE,
    LeakageSearch,
    Row,
    Tally,
    read_record,
    written_pictures,
)
from xraygpt.preparation.reports.cleaning import KEPT_FOR_LABEL

T = TypeVar("T")

EXAMPLES = 3
CHANGES_SHOWN = 3
MAX_TEXT = 600
PICTURES_SHOWN = 24
TILE_SIDE = 256
PERCENTILES = (5, 25, 50, 75, 95)
STATUS_NAMES = {1: "positive", -1: "uncertain", 0: "negative"}
SPLIT_ORDER = ("train", "val", "validate", "test")
SIDE_LIMITS = (128, 256, 512, 1024, 1536, 2048, 2560, 3072, 4096)
"""Upper ends of the ranges in which longest sides are counted, in pixels."""


class Sample(Generic[T]):
    """Keeps the `size` items whose keys have the smallest hashes: the same choice in whatever order."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: dict[bytes, tuple[str, T]] = {}

    def add(self, key: str, item: T) -> None:
        """Offer an item; only the first of a key counts."""
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self._kept.setdefault(digest, (key, item))
        if len(self._kept) > self._size:
            del self._kept[max(self._kept)]

    def items(self) -> list[T]:
        """Return what was kept, by key."""
        return [item for _, item in sorted(self._kept.values(), key=itemgetter(0))]


class Example(NamedTuple):
    """What a rule did to one report: why it refused it, or (before, after) of the sentences concerned."""

    study_id: str
    detail: str
    changes: tuple[tuple[str, str], ...]


class ShownPicture(NamedTuple):
    """One image of the contact sheet."""

    image_id: str
    split: str
    view: str


class ReportCounts:
    """Counts over reports; `add` takes the rows of the record."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.refused_by = {"dropped": Tally(), "rejected": Tally()}  # outcome -> rule -> studies
        self.uncleaned = Tally()  # reason -> reports that are kept as they were
        self.kept_in_split: Counter[str] = Counter()
        self.words: Counter[int] = Counter()  # kept captions by their number of words
        self.changed_reports: Counter[str] = Counter()  # by rule
        self.changed_sentences: Counter[str] = Counter()
        # Finding -> all reports before the cleaning, kept ones before it, kept ones after it -> status.
        self.labels: dict[str, dict[str, Counter[str]]] = defaultdict(
            lambda: {"before": Counter(), "kept_before": Counter(), "kept_after": Counter()}
        )
        # Rule -> a few reports that it changed or refused.
        self.samples: dict[str, Sample[Example]] = defaultdict(lambda: Sample(EXAMPLES))

    def add(self, row: Row) -> None:
        """Count one study."""
        outcome, study_id, changes = row["outcome"], row["study_id"], row.get("changes", ())
        self.outcomes[outcome] += 1
        labels = {"before": "labels_before"}
        if outcome == "kept":
            labels |= {"kept_before": "labels_before", "kept_after": "labels_after"}
            self.kept_in_split[row["split"]] += 1
            self.words[len(row["caption"].split())] += 1
            if row.get("detail"):
                self.uncleaned.note(row["detail"], study_id)
        else:
            rule = row.get("rule") or "unnamed rule"
            self.refused_by[outcome].note(rule, study_id)
            self._add_example(rule, row, row.get("detail", ""), changes if outcome == "rejected" else ())
        sentences = Counter(change["rule"] for change in changes)
        self.changed_sentences.update(sentences)
        self.changed_reports.update(sentences.keys())
        for rule in sentences:
            self._add_example(rule, row, "", [change for change in changes if change["rule"] == rule])
        for when, key in labels.items():
            for label, status in (row.get(key) or {}).items():
                self.labels[label][when][STATUS_NAMES[status]] += 1

    def _add_example(self, rule: str, row: Row, detail: str, changes: Sequence[Row]) -> None:
        def clip(text: str) -> str:
            return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"

        shown = tuple((clip(change["before"]), clip(change["after"])) for change in changes[:CHANGES_SHOWN])
        study_id = row["study_id"]
        self.samples[rule].add(f"{rule} {study_id}", Example(study_id, clip(detail), shown))

    def word_figures(self) -> dict[str, float]:
        """Return mean and percentiles of the words of captions; empty if there are none."""
        words = sorted(self.words.elements())
        if not words:
            return {}
        figures = {"mean": round(sum(words) / len(words), 2), "least": words[0], "most": words[-1]}
        # The smallest number that at least so many of a hundred captions do not exceed.
        return figures | {f"percentile_{p}": words[math.ceil(p / 100 * len(words)) - 1] for p in PERCENTILES}

    def rule_cards(self) -> Iterator[tuple[str, str, list[Example]]]:
        """Yield rule, effect and examples: of rules that changed reports, then of those that refused them."""
        for rule, count in self.changed_reports.most_common():
            counted = f"{self.changed_sentences[rule]:,} sentences in {count:,} reports"
            kept = f"left {counted} as they were, for a finding that would be lost"
            yield rule, kept if rule == KEPT_FOR_LABEL else f"changed {counted}", self.samples[rule].items()
        for outcome, tally in self.refused_by.items():
            for rule, count in tally.ranked():
                yield rule, f"{outcome} {count:,} reports", self.samples[rule].items()

    def plain(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        names = ("kept_in_split", "changed_reports", "changed_sentences", "labels")
        examples = {rule: [e._asdict() for e in sample.items()] for rule, sample in self.samples.items()}
        return {
            "read": self.outcomes.total(),
            **{outcome: self.outcomes[outcome] for outcome in OUTCOMES},
            "refused_by": {outcome: tally.plain() for outcome, tally in self.refused_by.items()},
            **({"uncleaned": self.uncleaned.plain()} if self.uncleaned else {}),
            **{name: getattr(self, name) for name in names},
            "words_of_kept": self.word_figures(),
            "examples": examples,
        }


class PictureCounts:
    """Counts over images; `add` takes the rows of the record."""

    def __init__(self) -> None:
        self.written = 0
        self.written_in_split: Counter[str] = Counter()
        self.refused = Tally()  # reason -> images that cannot be used
        self.left_out = Tally()  # reason -> images that were not asked for, such as lateral views
        self.notes = Tally()  # what was noticed about images that were written
        self.views: Counter[str] = Counter()
        self.longest_side_before: Counter[int] = Counter()  # by range, see `SIDE_LIMITS`
        self.longest_side: Counter[int] = Counter()
        self.bytes = 0
        self.largest_bytes = 0
        self.shown: Sample[ShownPicture] = Sample(PICTURES_SHOWN)  # the contact sheet

    def add(self, row: Row) -> None:
        """Count the images of one study."""
        for picture in row.get("pictures", ()):
            tally = {"refused": self.refused, "left out": self.left_out}.get(picture.get("outcome"))
            if tally is not None:
                tally.note(picture.get("reason") or "no reason given", picture["image_id"])
        for picture in written_pictures(row):
            image_id, split, view = picture["image_id"], row["split"], picture.get("view", "")
            self.written += 1
            self.written_in_split[split] += 1
            self.views[view or "not known"] += 1
            side_before = max(picture["original_width"], picture["original_height"])
            self.longest_side_before[bisect_left(SIDE_LIMITS, side_before)] += 1
            self.longest_side[bisect_left(SIDE_LIMITS, max(picture["width"], picture["height"]))] += 1
            self.bytes += picture["bytes"]
            self.largest_bytes = max(self.largest_bytes, picture["bytes"])
            for note in picture.get("notes", ()):
                self.notes.note(note, image_id)
            self.shown.add(image_id, ShownPicture(image_id, split, view))

    def plain(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        tallies = {name: getattr(self, name).plain() for name in ("refused", "left_out", "notes")}
        names = ("longest_side_before", "longest_side")
        sides = {name: list(side_ranges(getattr(self, name)).items()) for name in names}
        return vars(self) | tallies | sides | {"shown": [picture.image_id for picture in self.shown.items()]}


def side_ranges(sides: Counter[int]) -> dict[str, int]:
    """Return range of pixels -> count, from the first range that occurs to the last."""
    names = [f"{low + 1} to {high}" for low, high in zip((0, *SIDE_LIMITS), SIDE_LIMITS, strict=False)]
    names.append(f"over {SIDE_LIMITS[-1]}")
    present = range(min(sides), max(sides) + 1) if sides else range(0)
    return {names[number]: sides[number] for number in present}


@dataclass(frozen=True, slots=True)
class Check:
    """Something that should not occur, and how often it did."""

    what: str
    count: int | None
    """None if the raw data do not tell."""
    details: tuple[str, ...]
    """The first few cases, or the reasons with their counts."""
    grave: bool = False


class Summary:
    """Counts, examples and problems of a preparation.

    Args:
        record: ``studies.jsonl``; read line by line.
        source: how the page calls the raw data, e.g. ``openi``.
        synthetic: no image shows a patient; the page says so.
        text_only: reports were prepared without images, so that a kept report is one annotation.

    Raises:
        MissingFileError: no such record.
        DataError: a line is not of the record's form; names it.
    """

    def __init__(
        self, record: Path, *, source: str = "", synthetic: bool = False, text_only: bool = False
    ) -> None:
        self.source = source
        self.synthetic = synthetic
        self.text_only = text_only
        self.reports = ReportCounts()
        self.pictures = PictureCounts()
        self.unusable = Tally()  # reason -> raw items that gave no study
        search = LeakageSearch()
        for row in read_record(record):
            if "unusable" in row:
                self.unusable.note(row["reason"], row["unusable"])
                continue
            self.reports.add(row)
            self.pictures.add(row)
            if row["outcome"] == "kept":
                search.add(row)
        self.leakage = search.result()
        self.studies_with_patient = search.studies_with_patient  # of those kept

    def annotations(self) -> dict[str, int]:
        """Return the number of annotations in each split: one for each image, or report if text only."""
        counts = self.reports.kept_in_split if self.text_only else self.pictures.written_in_split
        return {split: counts[split] for split in (*SPLIT_ORDER, *sorted(counts)) if split in counts}

    def checks(self) -> list[Check]:
        """Return everything that was looked for, also what was not found, gravest first."""
        checks: list[Check] = []
        for name, leak in LEAKS.items():
            if leak.kind == "patient" and not self.studies_with_patient:
                checks.append(Check(leak.what, None, ("the raw data name no patients",), leak.grave))
            elif leak.what and not (leak.kind == "pixels" and self.text_only):
                shared = self.leakage[name]
                checks.append(Check(leak.what, shared.values, shared.first, leak.grave))
        tallies = {
            "images that cannot be used": None if self.text_only else self.pictures.refused,
            "images with something to look at": None if self.text_only else self.pictures.notes,
            "reports kept without cleaning": self.reports.uncleaned or None,
            "raw items that gave no study": self.unusable,
            "reports rejected (findings changed, or no usable answer)": self.reports.refused_by["rejected"],
        }
        for what, tally in tallies.items():
            if tally is not None:
                checks.append(Check(what, tally.total(), tally.lines()))
        return sorted(checks, key=lambda check: not check.grave)

    def to_json(self) -> str:
        """Return the counts as JSON: the same for the same record, without times or paths."""
        leakage = {name: dataclasses.asdict(shared) for name, shared in self.leakage.items()}
        content = {
            **{name: getattr(self, name) for name in ("source", "synthetic", "text_only")},
            "annotations": self.annotations(),
            "studies": self.reports.plain(),
            "pictures": self.pictures.plain(),
            "unusable": self.unusable.plain(),
            "leakage": {"studies_with_patient": self.studies_with_patient, **leakage},
        }
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def text(self) -> str:
        """Return the lines for a terminal, problems first."""
        checks, outcomes, pictures = self.checks(), self.reports.outcomes, self.pictures
        lines = ["\n  ".join((f"{c.what}: {c.count:,}", *c.details)) for c in checks if c.count]
        lines += [f"not known: {c.what} ({', '.join(c.details)})" for c in checks if c.count is None]
        if absent := [check.what for check in checks if check.count == 0]:
            lines.append(f"none found: {', '.join(absent)}")
        named = ", ".join(f"{outcomes[outcome]:,} {outcome}" for outcome in OUTCOMES)
        lines.append(f"{outcomes.total():,} studies: {named}")
        dropped = self.reports.refused_by["dropped"].ranked()
        lines += [f"  {count:,} dropped by {rule}" for rule, count in dropped]
        if not self.text_only:
            lines.append(f"{pictures.written:,} images written, {pictures.bytes / 1e6:,.1f} MB")
            lines += [f"  {count:,} left out: {reason}" for reason, count in pictures.left_out.ranked()]
        splits = self.annotations()
        named = ", ".join(f"{split} {count:,}" for split, count in splits.items())
        lines.append(f"{sum(splits.values()):,} annotations" + (f": {named}" if named else ""))
        return "\n".join(lines)


def write_page(summary: Summary, folder: Path, settings: str, command: str) -> Path:
    """Write ``folder/preparation.html`` and return its path; every text in it is escaped.

    Args:
        folder: the prepared folder; the contact sheet's images are read from its ``image/`` or ``shards/``.
        settings, command: what the folder was made by, shown as they are.
    """
    environment = page_environment()
    environment.filters["marked"] = marked_change
    source = files(__package__).joinpath("summary_page.html").read_text(encoding="utf-8")
    reports, pictures = summary.reports, summary.pictures
    page = environment.from_string(source).render(
        summary=summary,
        reports=reports,
        pictures=pictures,
        checks=summary.checks(),
        labels=sorted(reports.labels.items(), key=lambda item: (-item[1]["before"]["positive"], item[0])),
        rules=list(reports.rule_cards()),
        words=reports.word_figures(),
        tiles=[] if summary.text_only else picture_tiles(folder, pictures.shown.items()),
        sizes=(
            ("Before", side_ranges(pictures.longest_side_before)),
            ("As written", side_ranges(pictures.longest_side)),
        ),
        settings=settings,
        command=command,
    )
    # A lone surrogate, which a JSON file may hold, is no text that UTF-8 can encode.
    write_text(folder / PAGE_FILE, page, errors="replace")
    return folder / PAGE_FILE


def marked_change(before: str, after: str) -> list[tuple[str, str]]:
    """Mark the words of a sentence that a change took out and put in.

    Returns:
        (what became of the words: "same", "gone" or "new"; the words).
    """
    old, new = before.split(), after.split()
    pieces: list[tuple[str, list[str]]] = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        pieces += [("same", old[a:b])] if kind == "equal" else [("gone", old[a:b]), ("new", new[c:d])]
    return [(kind, " ".join(words)) for kind, words in pieces if words]


class Tile(NamedTuple):
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
    tiles: list[Tile] = []
    for image_id, split, view in pictures:
        try:
            url = picture_url(store.read(image_id, TILE_SIDE), TILE_SIDE)
        except XrayGPTError:
            url = ""
        tiles.append(Tile(image_id, ", ".join(filter(None, (split, view))), url))
    return tiles
