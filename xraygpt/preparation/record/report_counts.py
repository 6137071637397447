"""What a preparation did to the reports."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from xraygpt.preparation.record.study_record import Row
from xraygpt.preparation.record.tallies import HashSample, Places, Tally

EXAMPLES = 3
CHANGES_SHOWN = 3
MAX_TEXT = 600
PERCENTILES = (5, 25, 50, 75, 95)
STATUS_NAMES = {1: "positive", -1: "uncertain", 0: "negative"}


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
            "refused_by": {outcome: plain_tally(tally) for outcome, tally in self.refusals.items()},
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


def plain_tally(tally: Tally) -> dict[str, Any]:
    """Return a tally as plain values."""
    return {key: plain_places(places) for key, places in tally}


def plain_places(places: Places) -> dict[str, Any]:
    """Return a count with its first places as plain values."""
    return {"count": places.count, "first": list(places.first)}


def _clip(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
