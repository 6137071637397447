"""What a preparation did, counted from its record of studies (``studies.jsonl``)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xraygpt.preparation.record.counts import PictureCounts, Places, ReportCounts, Tally
from xraygpt.preparation.record.studies import Leakage, LeakageSearch, Shared, read_record, written_pictures


@dataclass(frozen=True, slots=True)
class Check:
    """Something that should not occur, and how often it did."""

    what: str
    count: int
    details: tuple[str, ...]
    """The first few cases, or the reasons with their counts."""
    grave: bool = False
    """Splits overlap: scores will look better than they are."""
    known: bool = True
    """False if the raw data do not tell."""


@dataclass(frozen=True)
class Summary:
    """Counts, examples and problems of a preparation."""

    source: str
    synthetic: bool
    text_only: bool
    reports: ReportCounts
    pictures: PictureCounts
    unusable: Tally
    """Reason -> raw items that gave no study."""
    leakage: Leakage

    def annotations(self) -> dict[str, int]:
        """Return the number of annotations in each split: one for each image, or report if text only."""
        counts = self.reports.kept_in if self.text_only else self.pictures.written_in
        return {split: counts[split] for split in sorted(counts, key=_split_order)}

    def checks(self) -> list[Check]:
        """Return everything that was looked for, also what was not found, gravest first."""
        leakage, rejected = self.leakage, self.reports.refusals["rejected"]
        of_images = [
            _shared("equal images in more than one split", leakage.pixels_in_splits, grave=True),
            _shared("equal images in more than one study", leakage.pixels_in_studies),
            _tallied("images that cannot be used", self.pictures.refused),
            _tallied("images with something to look at", self.pictures.notes),
        ]
        uncleaned = _tallied("reports kept without cleaning", self.reports.uncleaned)
        checks = [
            self._patient_check(),
            _shared("studies in more than one split", leakage.studies_in_splits, grave=True),
            _shared("studies listed more than once", leakage.studies_repeated),
            *([] if self.text_only else of_images),
            *([uncleaned] if uncleaned.count else []),
            _tallied("raw items that gave no study", self.unusable),
            _tallied("reports rejected (findings changed, or no usable answer)", rejected),
        ]
        return sorted(checks, key=lambda check: not check.grave)

    def _patient_check(self) -> Check:
        what = "patients in more than one split"
        if not self.leakage.studies_with_patient:
            return Check(what, 0, ("the raw data name no patients",), grave=True, known=False)
        return _shared(what, self.leakage.patients_in_splits, grave=True)

    def to_json(self) -> str:
        """Return the counts as JSON: the same for the same record, without times or paths."""
        content: dict[str, Any] = {
            "source": self.source,
            "synthetic": self.synthetic,
            "text_only": self.text_only,
            "annotations": self.annotations(),
            "studies": self.reports.plain(),
            "pictures": self.pictures.plain(),
            "unusable": self.unusable.plain(),
            "leakage": dataclasses.asdict(self.leakage),
        }
        return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def text(self) -> str:
        """Return the lines for a terminal, problems first."""
        found = [check for check in self.checks() if check.count]
        absent = [check.what for check in self.checks() if check.known and not check.count]
        unknown = [check for check in self.checks() if not check.known]
        lines = [f"{check.what}: {check.count:,}" + _indented(check.details) for check in found]
        lines += [f"not known: {check.what} ({', '.join(check.details)})" for check in unknown]
        if absent:
            lines.append(f"none found: {', '.join(absent)}")
        return "\n".join([*lines, *self._counts()])

    def _counts(self) -> Iterator[str]:
        outcomes = self.reports.outcomes
        yield (
            f"{outcomes.total():,} studies: {outcomes['kept']:,} kept, {outcomes['dropped']:,} dropped, "
            f"{outcomes['rejected']:,} rejected"
        )
        for rule, places in self.reports.refusals["dropped"]:
            yield f"  {places.count:,} dropped by {rule}"
        if not self.text_only:
            pictures = self.pictures
            yield f"{pictures.written:,} images written, {pictures.bytes / 1e6:,.1f} MB"
            for reason, places in pictures.left_out:
                yield f"  {places.count:,} left out: {reason}"
        splits = self.annotations()
        named = ", ".join(f"{split} {count:,}" for split, count in splits.items())
        yield f"{sum(splits.values()):,} annotations" + (f": {named}" if named else "")


def summarise_preparation(
    studies: Path, *, source: str = "", synthetic: bool = False, text_only: bool = False
) -> Summary:
    """Count what became of every study; reads the record line by line, in little memory.

    Args:
        studies: the record, ``studies.jsonl``.
        source: how the page calls the raw data, e.g. ``openi``.
        synthetic: no image shows a patient; the page says so.
        text_only: reports were prepared without images, so that a kept report is one annotation.

    Raises:
        MissingFileError: no such record.
        DataError: a line is not of the record's form; names it.
    """
    reports, pictures, unusable, search = ReportCounts(), PictureCounts(), Tally(), LeakageSearch()
    for row in read_record(studies):
        if "unusable" in row:
            unusable.add(row["reason"], row["unusable"])
            continue
        written = written_pictures(row)
        reports.add(row)
        pictures.add(row, written)
        if row["outcome"] == "kept":
            search.add(row, written)
    return Summary(source, synthetic, text_only, reports, pictures, unusable, search.result())


def _shared(what: str, shared: Shared, grave: bool = False) -> Check:
    return Check(what, shared.values, shared.first, grave)


def _tallied(what: str, tally: Tally) -> Check:
    return Check(what, tally.total(), tuple(_reason(key, places) for key, places in tally))


def _reason(key: str, places: Places) -> str:
    more = ", …" if places.count > len(places.first) else ""
    return f"{places.count:,} × {key}: {', '.join(places.first)}{more}"


def _indented(lines: tuple[str, ...]) -> str:
    return "".join(f"\n  {line}" for line in lines)


def _split_order(split: str) -> tuple[int, str]:
    """Sort train, validation and test in this order, others after them by name."""
    known = ("train", "val", "validate", "test")
    return (known.index(split) if split in known else len(known), split)
