from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from PIL import Image

from tests.evaluation.runs import ABSENT, SAME, prediction
from xraygpt.evaluation.metrics.catalogue import OFFLINE
from xraygpt.evaluation.metrics.clinical import LATERALITY_F1, RULE_F1
from xraygpt.evaluation.metrics.contradictions import CONTRADICTIONS
from xraygpt.evaluation.metrics.metric import Heading, Metric
from xraygpt.evaluation.metrics.overlap import ROUGE
from xraygpt.evaluation.metrics.phantom import PHANTOM
from xraygpt.evaluation.metrics.surface import SURFACE
from xraygpt.evaluation.page.curves import Curves, RunSummary
from xraygpt.evaluation.page.report_page import (
    compared_values,
    duration,
    figure,
    percent_of,
    sort_key,
    verdict,
    write_report_page,
)
from xraygpt.evaluation.predictions import Prediction
from xraygpt.evaluation.protocol import GenerationFacts, make_protocol
from xraygpt.evaluation.scoring import Scores, score_predictions
from xraygpt.evaluation.statistics import Interval
from xraygpt.pictures.reading import PictureFolder

METRICS = (*RULE_F1, LATERALITY_F1, *ROUGE, *SURFACE)
LEFT = "Findings: There is a small left pleural effusion. Impression: Small left pleural effusion."
RIGHT = "Findings: There is a small right pleural effusion. Impression: Small right pleural effusion."
EVIL = '<script>alert("x")</script> & cardiomegaly'
SECTIONS = (
    "summary",
    "findings",
    "scores",
    "sides",
    "subgroups",
    "training",
    "examples",
    "protocol",
    "missing",
    "settings",
)
VOID = {"meta", "img", "link", "input", "br"}
DRAWN = {"path", "use", "rect", "g"}
"""Elements of SVG that close themselves."""
RUNS = (
    RunSummary("alignment", 83.0, Curves([(1, 2.0), (2, 1.0)], [(2, 0.75)])),
    RunSummary("evaluation", 117.0, None),
)


FACTS = GenerationFacts(split="test", model="a small model", decoding={"search": "greedy", "beams": 1})


class Page(HTMLParser):
    """Checks that every element is closed, and collects addresses, ids and texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]
        self.ids += [value or "" for key, value in attrs if key == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID | DRAWN

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def predictions() -> list[Prediction]:
    return [
        prediction(0, LEFT, RIGHT, columns={"view": "PA", "prompt": "Describe."}),
        prediction(
            1, "There is cardiomegaly.", "Cardiomegaly.", columns={"view": "AP", "prompt": "Describe."}
        ),
        prediction(2, "The lungs are clear.", "The lungs are clear.", columns={"view": "PA"}),
        prediction(3, LEFT, LEFT, columns={"view": "lateral"}),
        prediction(4, "Right pneumothorax.", "", columns={"view": "PA"}),
    ]


def scored(rows: Sequence[Prediction], metrics: Sequence[Metric] = METRICS) -> Scores:
    subgroups = ["view"] if any(row.columns for row in rows) else []
    return score_predictions(rows, metrics, seed=1, rounds=50, subgroups=subgroups)


def card(
    rows: Sequence[Prediction], scores: Scores, tmp_path: Path, facts: GenerationFacts = FACTS
) -> dict[str, Any]:
    (tmp_path / "predictions.jsonl").write_text("")
    return make_protocol(
        rows, scores, file=tmp_path / "predictions.jsonl", command="evaluate.py score x", generation=facts
    )


def write(
    tmp_path: Path,
    rows: list[Prediction] | None = None,
    metrics: Sequence[Metric] = METRICS,
    **options: object,
) -> str:
    rows = predictions() if rows is None else rows
    scores = scored(rows, metrics)
    output = tmp_path / "report.html"
    protocol = card(rows, scores, tmp_path)
    assert write_report_page(scores, rows, protocol, output=output, **options) == output  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.glob("report*")] == ["report.html"]
    return output.read_text(encoding="utf-8")


def picture(image_id: str) -> Image.Image:
    return Image.new("L", (700, 401), 9 * int(image_id[-1]))


def test_every_section_is_there_and_nothing_is_asked_of_a_network(tmp_path: Path) -> None:
    html = write(
        tmp_path,
        metrics=(*METRICS, ABSENT),
        pictures=picture,
        runs=RUNS,
        comparisons={"untrained": 0.1234},
        settings='{"seed": 4242}',
    )
    page = Page(html)
    assert [name for name in page.ids if name in SECTIONS] == list(SECTIONS)
    links = [address.removeprefix("#") for address in page.addresses if address.startswith("#")]
    assert links == list(SECTIONS)
    pictures = [address for address in page.addresses if not address.startswith("#")]
    assert len(pictures) == 5
    assert all(address.startswith("data:image/jpeg;base64,") for address in pictures)
    assert not re.search(r"https?://|url\((?!#)|@import|<script src|<link", html)
    for words in (
        "Generated reports: a small model",
        "5 generated reports of 5 studies, split test",
        "Untrained",
        "0.123",
        "Reports without text1",
        "needs Java, which is not there",
        "last validation loss 0.75, 1 min 23 s",
        "in all 3 min 20 s",
        "search: greedy beams: 1",
        "4242",
        "evaluate.py score x",
    ):
        assert words in page.text


def test_the_first_figure_and_the_intervals_are_those_of_the_scores(tmp_path: Path) -> None:
    score = scored(predictions()).scores["rule_f1_micro_14"]
    text = Page(write(tmp_path)).text
    summary = text[text.index("These reports") - 80 : text.index("These reports")]
    assert f"{score.value:.3f} rule-F1 micro-14 95 % interval {score.low:.3f} to {score.high:.3f}" in summary


def test_findings_are_marked_in_words_and_text(tmp_path: Path) -> None:
    html = write(tmp_path)
    assert "&minus; missed: left pleural effusion" in html
    assert "+ invented: right pleural effusion" in html
    assert '<mark class="missed" title="missed: left pleural effusion">effusion</mark>' in html
    assert '<mark class="invented" title="invented: right pleural effusion">effusion</mark>' in html
    assert "&#10003; cardiomegaly" in html
    assert "no finding in either" in html
    assert "A finding without a side is marked as agreeing with one on any side" in html
    assert '<em class="soft">no text</em>' in html


def test_only_the_examples_are_embedded(tmp_path: Path) -> None:
    rows = [prediction(i, f"Reference number {i}.", f"Generated number {i}.") for i in range(300)]
    asked: list[str] = []

    def pictures(image_id: str) -> Image.Image | None:
        asked.append(image_id)
        return None

    html = write(tmp_path, rows, ROUGE, pictures=pictures, examples=6)
    assert len(asked) == 6
    assert html.count('<details class="card"') == 6
    assert len(set(re.findall(r"Generated number (\d+)\.", html))) == 6
    assert Page(html).addresses == ["#summary", "#findings", "#scores", "#examples", "#protocol"]


def test_phantoms_come_first_and_are_said_to_be_synthetic(tmp_path: Path) -> None:
    rows = [replace(row, columns={}) for row in predictions()]
    metrics = (*METRICS, *PHANTOM)
    synthetic = Page(write(tmp_path, rows, metrics, synthetic=True)).text
    assert "a program drew all images" in synthetic
    assert synthetic.index("phantom finding F1") < synthetic.index("rule-F1")
    assert "Findings of the phantoms" in synthetic
    real = Page(write(tmp_path, rows, metrics)).text
    assert "Synthetic:" not in real
    assert real.index("rule-F1") < real.index("phantom finding F1")
    assert "Findings of the phantoms" not in real


def test_texts_are_escaped(tmp_path: Path) -> None:
    rows = [Prediction(EVIL, "s", EVIL, f"No. {EVIL}", {EVIL: EVIL}), prediction(1, "Clear.", "Clear.")]
    runs = [RunSummary(EVIL, 1.0, Curves([(1, 1.0)], []))]
    rows[1] = replace(rows[1], columns={EVIL: "other"})
    scores = score_predictions(rows, METRICS, seed=1, rounds=20, subgroups=[EVIL])
    scores = replace(scores, not_computed={EVIL: EVIL})
    protocol = card(rows, scores, tmp_path, GenerationFacts(model=EVIL, prompt=EVIL)) | {"command": EVIL}
    output = tmp_path / "evil.html"
    write_report_page(
        scores, rows, protocol, output=output, runs=runs, settings=EVIL, comparisons={EVIL: 0.5}
    )
    html = output.read_text()
    assert EVIL in Page(html).text
    assert re.findall(r"<script[^>]*>", html) == ["<script>"]
    assert html.count("<script>") == html.count("</script>") == 1


def test_the_table_of_subgroups_is_not_too_wide(tmp_path: Path) -> None:
    def titles(html: str) -> list[str]:
        head = html.split('id="subgroups"')[1].partition("</thead>")[0]
        return re.findall(r'data-sort="descending">([^<]*)', head)

    assert titles(write(tmp_path)) == ["Reports", "Value", "finding F1 with side", "ROUGE-L"]
    in_python = [metric for metric in OFFLINE if not metric.outside_python]
    assert len(titles(write(tmp_path, metrics=in_python))) == 2 + 3


def test_what_is_below_the_findings_is_folded(tmp_path: Path) -> None:
    html = write(tmp_path, metrics=(*METRICS, ABSENT), runs=RUNS, settings="{}")
    folded = re.findall(r'<details class="section"( open)?><summary>.*?</summary>\n<div id="(\w+)">', html)
    assert [name for opened, name in folded if opened] == ["findings"]
    assert {name for _, name in folded} == {*SECTIONS} - {"summary"}
    assert re.findall(r'<details class="card"( open)?', html) == [" open"] * 3 + [""] * 2
    tables = html.count("<table")
    assert tables == html.count('<div class="scroll"><table') > 3  # a narrow screen shows that there is more


def test_a_picture_that_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("L", (64, 64), 7).save(folder / "0.png")
    whole = (folder / "0.png").read_bytes()
    for i, row in enumerate(predictions()):
        (folder / f"{row.image_id}.png").write_bytes(whole if i else b"no picture")
    html = write(tmp_path, pictures=PictureFolder(folder))
    assert html.count("picture cannot be read") == 1
    assert html.count("<img") == 4


def test_a_blank_report_is_said_to_have_no_text(tmp_path: Path) -> None:
    html = write(tmp_path, [prediction(0, "Edema.", " \n "), prediction(1, "Edema.", "Edema.")], ROUGE)
    assert html.count('<em class="soft">no text</em>') == 1


def test_shuffling_that_is_not_possible_is_not_told(tmp_path: Path) -> None:
    html = write(tmp_path, [prediction(0, LEFT, LEFT)], RULE_F1[:1])
    controls = html.split("<summary>rule-F1 micro-14</summary>")[1]
    assert re.findall(r'data-value="([^"]*)">(?:<strong>)?([^<]*)<', controls)[1] == ("", "–")
    assert "no sign that the reports depend" not in html


def test_a_lone_surrogate_does_no_harm(tmp_path: Path) -> None:
    html = write(tmp_path, [prediction(0, "Clear \ud83d.", "Clear.")], ROUGE)
    assert "Clear ?." in html


@pytest.mark.parametrize("metrics", [(), (ABSENT,)])
def test_page_without_any_score(tmp_path: Path, metrics: tuple[Metric, ...]) -> None:
    page = Page(write(tmp_path, metrics=metrics))
    assert "No score could be computed." in page.text
    assert "scores" not in page.ids
    assert "subgroups" not in page.ids


def test_page_without_findings(tmp_path: Path) -> None:
    page = Page(write(tmp_path, [prediction(i, "", "") for i in range(3)], (LATERALITY_F1,), examples=0))
    assert "is not defined for these reports" in page.text
    assert [name for name in page.ids if name in ("findings", "sides", "examples")] == []


F1 = replace(SAME, title="an F1", heading="Findings")
OTHER_RATE = replace(SAME, higher_is_better=False)


class Case(NamedTuple):
    metric: Metric
    value: float
    low: float
    high: float
    compared: dict[str, float]


def row(value: float, low: float = math.nan, high: float = math.nan, **compared: float) -> Case:
    return Case(F1, value, low, high, compared)


def rate(metric: Metric, value: float, low: float, high: float, **compared: float) -> Case:
    return Case(metric, value, low, high, compared)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (row(0.5, 0.4, 0.6, shuffled=0.1, blind_bound=0.3), ""),
        (
            row(0.5, 0.4, 0.6, shuffled=0.1, blind_bound=0.45),
            "The interval reaches to “blind bound”: the score may be no better.",
        ),
        (
            row(0.5, 0.4, 0.6, shuffled=0.1, blind=0.5, blind_bound=0.7),
            "No better than “blind” and “blind bound”: a constant report reaches as much in this score.",
        ),
        (
            row(0.5, 0.4, 0.6, shuffled=0.6, blind=0.5),
            "No better than “shuffled”: this score is no sign that the reports depend on the images. "
            "No better than “blind”: a constant report reaches as much in this score.",
        ),
        (
            row(0.5, 0.4, 0.6, shuffled=0.45, blind=0.6),
            "No better than “blind”: a constant report reaches as much in this score. "
            "The interval reaches to “shuffled”: the score may be no better.",
        ),
        (row(0.5, 0.4, 0.6, untrained=0.5), "No better than “untrained”."),
        (row(math.nan), "an F1 is not defined for these reports: it found nothing to compare."),
        (rate(OTHER_RATE, 0.1, 0.05, 0.15, shuffled=0.2, blind=0.3), ""),
        (
            rate(OTHER_RATE, 0.1, 0.05, 0.15, shuffled=0.2, blind=0.12),
            "The interval reaches to “blind”: the score may be no better.",
        ),
        (
            rate(OTHER_RATE, 0.1, 0.05, 0.15, shuffled=0.1, blind=0.3),
            "No better than “shuffled”: this score is no sign that the reports depend on the images.",
        ),
        # Shuffling does nothing to a score that looks at the generated reports alone.
        (rate(CONTRADICTIONS, 0.1, 0.05, 0.15, shuffled=0.1, blind=0.3), ""),
        (
            rate(CONTRADICTIONS, 0.1, 0.05, 0.15, shuffled=0.1, blind=0.0),
            "No better than “blind”: a constant report reaches as much in this score.",
        ),
        (Case(replace(F1, descriptive=True), 30.0, 29, 31, {"shuffled": 30.0, "blind": 60.0}), ""),
    ],
)
def test_verdict(case: Case, expected: str) -> None:
    assert verdict(case.metric, Interval(case.value, case.low, case.high), case.compared) == expected


def test_controls_that_are_not_known_are_left_out() -> None:
    scores = scored(predictions(), [SAME])
    unknown = replace(
        scores, controls={"shuffled": {"same": 0.1}, "blind": {"same": math.nan}, "blind_bound": {}}
    )
    assert compared_values(unknown, "same", {"untrained": 0.2}) == {"shuffled": 0.1, "untrained": 0.2}


def test_every_metric_stands_under_its_heading(tmp_path: Path) -> None:
    metrics = (*PHANTOM, *OFFLINE)
    names: dict[str, set[str]] = {}
    for metric in metrics:
        names.setdefault(metric.heading, set()).add(metric.name)
    assert names.keys() <= set(get_args(Heading))
    assert {"phantom_f1", "rule_f1_micro_14", "laterality_f1"} <= names["Findings"]
    words = ("rouge", "bleu", "sacrebleu", "meteor", "cider")
    assert all(name.startswith(words) for name in names["Wording"])
    assert names["Errors"] == {metric.name for metric in metrics if not metric.higher_is_better}
    text = Page(write(tmp_path, metrics=(SURFACE[0], *ROUGE))).text
    assert text.index("Wording ROUGE-1") < text.index("Errors repeated 4-grams")


@pytest.mark.parametrize(
    ("value", "highest", "words"),
    [
        (0.12345, 1, "0.123"),
        (2.5, 10, "2.500"),
        (60.84, 100, "60.8"),
        (41.9, math.inf, "41.9"),
        (0.8, math.inf, "0.80"),
        (math.nan, 1, "–"),
    ],
)
def test_figures(value: float, highest: float, words: str) -> None:
    assert figure(value, highest) == words


def test_a_difference_has_a_sign() -> None:
    assert [figure(value, signed=True) for value in (0.25, -0.25, 0)] == ["+0.250", "−0.250", "+0.000"]


def test_numbers() -> None:
    assert [percent_of(value, 10) for value in (2.5, -1, 20, math.nan)] == ["25.00", "0.00", "100.00", "0.00"]
    assert percent_of(5, math.inf) == "0.00"
    assert [sort_key(0.25), sort_key(math.nan)] == ["0.25", ""]
    assert [duration(x) for x in (12.4, 200, 3661)] == ["12 s", "3 min 20 s", "1 h 1 min"]
