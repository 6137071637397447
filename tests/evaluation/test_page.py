from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from xraygpt.evaluation.curves import Curves
from xraygpt.evaluation.page import Example, PageContent, RunSummary, choose_examples, render_page
from xraygpt.evaluation.scores import score_reports

LEFT = "Findings: There is a small left pleural effusion. Impression: Small left pleural effusion."
RIGHT = "Findings: There is a small right pleural effusion. Impression: Small right pleural effusion."
VOID = {"meta", "img", "line", "circle", "polyline", "link"}


def page_content(synthetic: bool = True) -> PageContent:
    references, hypotheses = (
        [LEFT, "There is cardiomegaly.", "All clear."],
        [RIGHT, "Cardiomegaly.", "All clear."],
    )
    return PageContent(
        subject="3 radiographs (openi)",
        synthetic=synthetic,
        scores={**score_reports(references, hypotheses, seed=0), "f1_untrained": 0.123, "seconds": 200.0},
        runs=[
            RunSummary("alignment", 83.0, Curves([(1, 2.0), (2, 1.0)], [(2, 0.75)])),
            RunSummary("untrained", 5.0, None),
        ],
        examples=[
            Example(f"x{i}", r, h, Image.new("L", (700, 401), 9 * i))
            for i, (r, h) in enumerate(zip(references, hypotheses, strict=True))
        ],
        config='{"run": {"seed": 4242}}',
    )


class Balance(HTMLParser):
    """Checks that every element is closed, and collects addresses and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]
        self.ids += [value or "" for key, value in attrs if key == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(html: str) -> Balance:
    parser = Balance()
    parser.feed(html)
    assert parser.open == []
    return parser


def test_has_every_section_and_asks_nothing_of_a_network() -> None:
    html = render_page(page_content())
    page = parsed(html)
    assert page.ids == ["scores", "curves", "findings", "errors", "correct", "configuration"]
    assert len(page.addresses) == 3
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert not re.search(r"https?://|url\(|@import|<script", html)
    for words in (
        "Shuffled images",
        "Blind",
        "Untrained",
        "0.123",
        "3 min 20 s",
        "1 min 23 s",
        "0.75",
        "4242",
    ):
        assert words in html


def test_disagreements_are_marked_in_words_and_text() -> None:
    html = render_page(page_content())
    assert "missed: left pleural effusion" in html
    assert "not there: right pleural effusion" in html
    assert html.count('<mark class="missed">There is a small left pleural effusion. </mark>') == 1
    assert '<mark class="false">Small right pleural effusion.</mark>' in html
    assert (
        html.index("missed: left pleural effusion") < html.index('id="correct"') < html.index("no finding in")
    )


def test_says_synthetic_only_of_synthetic_images() -> None:
    assert "synthetic radiographs: a program drew them" in render_page(page_content(synthetic=True))
    real = render_page(page_content(synthetic=False))
    assert "no patient is shown" not in real
    assert "nothing in 1 of the 3 true reports" in " ".join(real.split())


def test_texts_are_escaped() -> None:
    evil = '<script>alert("x")</script> & cardiomegaly'
    content = page_content()
    content = replace(
        content,
        subject=evil,
        config=evil,
        runs=[RunSummary(evil, 1.0, Curves([(1, 1.0)], []))],
        examples=[Example(evil, evil, f"No. {evil}", Image.new("RGB", (9, 9)))],
    )
    html = render_page(content)
    parsed(html)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5


def test_page_without_runs_examples_findings_or_comparison() -> None:
    scores = {**score_reports(["value 4"], ["value 5"], seed=0), "seconds": 3.0}
    html = render_page(replace(page_content(), scores=scores, runs=[], examples=[]))
    assert parsed(html).ids == ["scores", "findings", "errors", "correct", "configuration"]
    assert "Untrained" not in html
    assert "these figures say nothing" in html
    assert html.count("None to show.") == 2


def test_example_without_a_picture() -> None:
    html = render_page(replace(page_content(), examples=[Example("x0", LEFT, LEFT, None)]))
    assert parsed(html).addresses == []


@pytest.mark.parametrize(
    ("wrong", "total", "count", "expected"),
    [
        ({3, 5, 7}, 10, 4, [3, 5, 0, 1]),
        ({3}, 10, 4, [3, 0, 1, 2]),
        (set(range(9)), 10, 4, [0, 1, 2, 9]),
        ({1}, 3, 24, [1, 0, 2]),
        ({1}, 3, 0, []),
    ],
)
def test_choice_of_examples(wrong: set[int], total: int, count: int, expected: list[int]) -> None:
    references = ["cardiomegaly"] * total
    hypotheses = ["nothing" if i in wrong else "cardiomegaly" for i in range(total)]
    assert choose_examples(references, hypotheses, count) == expected
