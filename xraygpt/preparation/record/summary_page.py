"""``preparation.html``: one page about a preparation, a single file that asks nothing of a network.

Its layout is ``summary_page.html`` beside this file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib.resources import files
from pathlib import Path

from xraygpt.common.errors import XrayGPTError
from xraygpt.common.html_page import page_environment, picture_url
from xraygpt.common.image_modes import to_rgb
from xraygpt.common.run_record import write_text
from xraygpt.datasets.datasets.images import ImageStore, open_storage
from xraygpt.preparation.record.counts import Example, LabelCounts, ShownPicture, side_ranges
from xraygpt.preparation.record.summary import Summary
from xraygpt.preparation.reports.cleaning import KEPT_FOR_LABEL

PAGE_FILE = "preparation.html"
TEMPLATE = "summary_page.html"
TILE_SIDE = 256

Marked = list[tuple[str, str]]
"""(what became of the words: "same", "gone" or "new"; the words)."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A labelled count, drawn as a share of a whole."""

    label: str
    count: int
    share: float
    """0 to 1."""
    kind: str = "other"
    """"main" for what remains, "other" for what went."""


@dataclass(frozen=True, slots=True)
class LabelRow:
    """How often a finding is asserted before and after the cleaning."""

    label: str
    counts: LabelCounts
    before: float
    """Share of all reports that assert it."""
    after: float
    """Share of the kept reports that still assert it."""


@dataclass(frozen=True, slots=True)
class RuleCard:
    """What a rule did."""

    rule: str
    effect: str
    examples: list[Example]


@dataclass(frozen=True, slots=True)
class Tile:
    """One small image with what stands below it."""

    image_id: str
    caption: str
    """Split and view."""
    url: str
    """A JPEG as a ``data:`` URL; "" for an image that cannot be read."""


def write_page(summary: Summary, folder: Path, settings: str, command: str) -> Path:
    """Write ``folder/preparation.html`` and return its path.

    Args:
        summary: what to show.
        folder: the prepared folder; the contact sheet's images are read from its ``image/`` or ``shards/``.
        settings: the settings of the preparation as text (YAML), shown as they are.
        command: the command line that made the folder.
    """
    path = folder / PAGE_FILE
    # A lone surrogate, which a JSON file may hold, is no text that UTF-8 can encode.
    write_text(path, render_page(summary, folder, settings, command), errors="replace")
    return path


def render_page(summary: Summary, folder: Path, settings: str, command: str) -> str:
    """Return the page as HTML; every text is escaped (arguments as for `write_page`)."""
    environment = page_environment()
    environment.filters["marked"] = marked_change
    source = files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    pictures, checks = summary.pictures, summary.checks()
    return environment.from_string(source).render(
        summary=summary,
        reports=summary.reports,
        pictures=pictures,
        splits=_shares(summary.annotations(), "main"),
        checks=checks,
        grave=[check for check in checks if check.grave and check.count],
        funnel=_report_funnel(summary),
        picture_funnel=_picture_funnel(summary),
        labels=_label_rows(summary),
        rules=_rule_cards(summary),
        words=summary.reports.word_figures(),
        tiles=[] if summary.text_only else picture_tiles(folder, pictures.shown()),
        sizes=[
            ("Before", _shares(dict(side_ranges(pictures.original_sides)))),
            ("As written", _shares(dict(side_ranges(pictures.sides)), "main")),
        ],
        views=_shares(dict(pictures.views.most_common())),
        settings=settings,
        command=command,
    )


def marked_change(before: str, after: str) -> Marked:
    """Return the words of a sentence before and after a change as one text, with those gone and those new."""
    old, new = before.split(), after.split()
    pieces: Marked = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(("same", " ".join(old[a:b])))
        else:
            pieces += [
                (name, " ".join(words)) for name, words in (("gone", old[a:b]), ("new", new[c:d])) if words
            ]
    return pieces


def _shares(counts: dict[str, int], kind: str = "other") -> list[Bar]:
    total = sum(counts.values())
    return [Bar(label, count, count / total if total else 0.0, kind) for label, count in counts.items()]


def _report_funnel(summary: Summary) -> list[Bar]:
    """Return the bars from all studies down to those kept."""
    outcomes = summary.reports.outcomes
    total = outcomes.total() or 1
    refused = [
        Bar(f"{outcome}: {rule}", places.count, places.count / total)
        for outcome, tally in summary.reports.refusals.items()
        for rule, places in tally
    ]
    read = Bar("read", outcomes.total(), outcomes.total() / total, "main")
    return [read, *refused, Bar("kept", outcomes["kept"], outcomes["kept"] / total, "main")]


def _picture_funnel(summary: Summary) -> list[Bar]:
    pictures = summary.pictures
    total = pictures.written + pictures.refused.total() + pictures.left_out.total() or 1
    refused = [
        Bar(f"{name}: {reason}", places.count, places.count / total)
        for name, tally in (("left out", pictures.left_out), ("refused", pictures.refused))
        for reason, places in tally
    ]
    return [*refused, Bar("written", pictures.written, pictures.written / total, "main")]


def _label_rows(summary: Summary) -> list[LabelRow]:
    read, kept = summary.reports.outcomes.total(), summary.reports.outcomes["kept"]
    rows = [
        LabelRow(label, counts, _share(counts.before, read), _share(counts.kept_after, kept))
        for label, counts in summary.reports.labels.items()
    ]
    return sorted(rows, key=lambda row: (-row.before, row.label))


def _share(counts: Counter[str], total: int) -> float:
    return counts["positive"] / total if total else 0.0


def _rule_cards(summary: Summary) -> list[RuleCard]:
    """Return the rules that changed reports, then those that refused them, each with examples."""
    reports = summary.reports
    cards = [
        RuleCard(rule, _effect(rule, reports.changed_sentences[rule], count), reports.examples(rule))
        for rule, count in reports.changed_reports.most_common()
    ]
    for outcome, tally in reports.refusals.items():
        cards += [
            RuleCard(rule, f"{outcome} {places.count:,} reports", reports.examples(rule))
            for rule, places in tally
        ]
    return cards


def _effect(rule: str, sentences: int, reports: int) -> str:
    counted = f"{sentences:,} sentences in {reports:,} reports"
    if rule == KEPT_FOR_LABEL:
        return f"left {counted} as they were, for a finding that would be lost"
    return f"changed {counted}"


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
