"""One HTML page about an evaluation: scores, loss curves, findings, examples.

The page is a single file that asks nothing of a network. Its layout is ``page.html`` beside this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from PIL import Image

from xraygpt.common.html_page import page_environment, picture_url
from xraygpt.evaluation.curves import Chart, RunSummary, draw_chart
from xraygpt.evaluation.findings import extract_findings, split_sentences

TEMPLATE = "page.html"
MAX_SIDE = 384


@dataclass(frozen=True)
class Example:
    """One image with its two reports."""

    image_id: str
    reference: str
    generated: str
    picture: Image.Image | None
    """8-bit grey or RGB; None where the data set has none to show."""


@dataclass(frozen=True)
class PageContent:
    """All that the page shows."""

    subject: str
    """What was reported on, e.g. "400 synthetic radiographs"."""
    synthetic: bool
    """No image shows a patient."""
    scores: Mapping[str, Any]
    """As `score_reports` gives them, with `seconds` and perhaps `f1_untrained`."""
    runs: Sequence[RunSummary]
    examples: Sequence[Example]
    config: str
    """The configuration of the evaluation, as text."""


@dataclass(frozen=True)
class _Card:
    image_id: str
    picture: str | None
    reference: list[tuple[str, bool]]
    generated: list[tuple[str, bool]]
    agreed: list[str]
    missed: list[str]
    false_alarms: list[str]


def choose_examples(references: Sequence[str], hypotheses: Sequence[str], count: int) -> list[int]:
    """Return the indices of the examples to show: first some with an error, then some without.

    Both kinds come in the order of the data, not by how telling they are, and make up half each where there
    are enough of both.
    """
    pairs = enumerate(zip(references, hypotheses, strict=True))
    wrong = {i for i, (r, h) in pairs if extract_findings(r) != extract_findings(h)}
    right = [i for i in range(len(references)) if i not in wrong]
    errors = min(len(wrong), max(count // 2, count - len(right)))
    return sorted(wrong)[:errors] + right[: count - errors]


def render_page(content: PageContent) -> str:
    """Return the page as HTML; every text is escaped."""
    environment = page_environment()
    environment.filters["duration"] = _duration
    source = files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    cards = [_card(example) for example in content.examples]
    charts: list[tuple[RunSummary, Chart]] = [
        (run, chart) for run in content.runs if run.curves and (chart := draw_chart(run.curves))
    ]
    return environment.from_string(source).render(
        content=content,
        scores=content.scores,
        comparisons=_comparisons(content.scores),
        charts=charts,
        wrong=[card for card in cards if card.missed or card.false_alarms],
        right=[card for card in cards if not card.missed and not card.false_alarms],
    )


def _comparisons(scores: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Return (key, explanation, F1) of what the model's F1 has to be held against."""
    known = {
        "f1_shuffled": ("shuffled images", "The same reports, each held against another image's"),
        "f1_blind": ("blind", "The best constant report, whatever the image"),
        "f1_untrained": ("untrained", "The same model before training"),
    }
    return [(*words, scores[key]) for key, words in known.items() if key in scores]


def _card(example: Example) -> _Card:
    truth, found = extract_findings(example.reference), extract_findings(example.generated)
    return _Card(
        image_id=example.image_id,
        picture=picture_url(example.picture, MAX_SIDE) if example.picture is not None else None,
        reference=_marked(example.reference, truth - found),
        generated=_marked(example.generated, found - truth),
        agreed=sorted(truth & found),
        missed=sorted(truth - found),
        false_alarms=sorted(found - truth),
    )


def _marked(report: str, disputed: set[str]) -> list[tuple[str, bool]]:
    """Return the sentences of a report, each with whether it asserts a disputed finding."""
    return [(text, bool(extract_findings(text) & disputed)) for text in split_sentences(report)]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
