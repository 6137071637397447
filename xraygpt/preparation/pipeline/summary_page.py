"""``preparation.html``: one page about a preparation, a single file that asks nothing of a network.

Its layout is ``summary_page.html`` beside this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from xraygpt.common.errors import XrayGPTError
from xraygpt.common.html_page import page_environment, picture_url
from xraygpt.common.run_record import write_text
from xraygpt.datasets.datasets.images import open_storage
from xraygpt.preparation.pipeline.studies import PAGE_FILE
from xraygpt.preparation.pipeline.summary import Example, ReportCounts, ShownPicture, Summary, side_ranges
from xraygpt.preparation.reports.cleaning import KEPT_FOR_LABEL

TEMPLATE = "summary_page.html"
TILE_SIDE = 256


def write_page(summary: Summary, folder: Path, settings: str, command: str) -> Path:
    """Write ``folder/preparation.html`` and return its path; every text in it is escaped.

    Args:
        summary: what to show.
        folder: the prepared folder; the contact sheet's images are read from its ``image/`` or ``shards/``.
        settings: the settings of the preparation as text (YAML), shown as they are.
        command: the command line that made the folder.
    """
    environment = page_environment()
    environment.filters["marked"] = marked_change
    source = files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    reports, pictures = summary.reports, summary.pictures
    page = environment.from_string(source).render(
        summary=summary,
        reports=reports,
        pictures=pictures,
        checks=summary.checks(),
        labels=sorted(reports.labels.items(), key=lambda item: (-item[1]["before"]["positive"], item[0])),
        rules=list(_rule_cards(reports)),
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


def _rule_cards(reports: ReportCounts) -> Iterator[tuple[str, str, list[Example]]]:
    """Yield rule, effect and examples: of rules that changed reports, then of those that refused them."""
    for rule, count in reports.changed_reports.most_common():
        counted = f"{reports.changed_sentences[rule]:,} sentences in {count:,} reports"
        kept = f"left {counted} as they were, for a finding that would be lost"
        effect = kept if rule == KEPT_FOR_LABEL else f"changed {counted}"
        yield rule, effect, reports.samples[rule].items()
    for outcome, tally in reports.refused_by.items():
        for rule, count in tally.ranked():
            yield rule, f"{outcome} {count:,} reports", reports.samples[rule].items()


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
