"""The page that holds runs beside each other."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.evaluation.page.test_report_page import EVIL, LEFT, RIGHT, Page
from tests.evaluation.runs import ABSENT, LENGTH, prediction, run
from xraygpt.evaluation.comparison import Comparison, compare_predictions
from xraygpt.evaluation.metrics.clinical import RULE_F1
from xraygpt.evaluation.metrics.metric import Metric
from xraygpt.evaluation.metrics.overlap import ROUGE
from xraygpt.evaluation.metrics.phantom import PHANTOM
from xraygpt.evaluation.metrics.surface import SURFACE
from xraygpt.evaluation.page.curves import Curves
from xraygpt.evaluation.page.report_page import write_comparison_page
from xraygpt.evaluation.predictions import Prediction

METRICS = (*RULE_F1[:2], *ROUGE, *SURFACE)
Runs = Mapping[str, Sequence[Prediction]]
TWO = {"first": run(24, 1), "second": run(24, 12)}


def compared(runs: Runs, metrics: Sequence[Metric] = METRICS) -> Comparison:
    return compare_predictions(runs, metrics, seed=1, rounds=400)


def write(tmp_path: Path, runs: Runs, comparison: Comparison | None = None, **options: Any) -> str:
    output = tmp_path / "comparison.html"
    comparison = comparison or compared(runs)
    assert (
        write_comparison_page(comparison, runs, {"command": "compare x"}, output=output, **options) == output
    )
    return output.read_text(encoding="utf-8")


def test_two_runs(tmp_path: Path) -> None:
    comparison = compared(TWO, (*METRICS, ABSENT))
    curves = {"plain": Curves([(1, 2.0), (2, 1.0)], [(2, 1.5)]), "lora": Curves([(1, 1.0)], [])}
    html = write(
        tmp_path, TWO, comparison, curves=curves, pictures=lambda name: Image.new("L", (8, 8)), synthetic=True
    )
    page = Page(html)
    sections = ["summary", "findings", "scores", "training", "examples", "protocol", "missing"]
    assert [name for name in page.ids if name in sections] == sections
    assert not re.search(r"https?://|url\((?!#)|@import|<script src|<link", html)
    assert html.count("data:image/jpeg;base64,") == html.count('<details class="card"') == 10
    (row,) = comparison.differences["rule_f1_micro_14"]
    difference = row.difference
    for words in (
        "2 runs on the same 24 images of 24 studies, each held against the first, first",
        f"second is better than first in rule-F1 micro-14: +{difference.value:.3f} (95 % interval "
        f"+{difference.low:.3f} to +{difference.high:.3f}), p ≤ {row.p:.4f}, Holm ≤ {row.p_holm:.4f}.",
        f"Uncorrected, this test finds a true difference of {row.detectable:.3f} in four of five samples.",
        f"corrected for the {comparison.tests} tests",
        "Loss by step",
        "last validation loss 1.5",
        "a program drew all images",
        "needs Java, which is not there",
        "compare x",
    ):
        assert words in page.text
    for number in range(2):
        score = comparison.scores["rouge_l"][number]
        assert f"{score.value:.3f} {score.low:.3f} to {score.high:.3f}" in page.text
        f1 = comparison.findings["Cardiomegaly"][number]
        assert f1 is not None
        assert f"{f1.f1.value:.3f} {f1.f1.low:.3f} to {f1.f1.high:.3f}" in page.text


def test_a_lower_error_is_better_and_no_difference_is_said_to_be_none(tmp_path: Path) -> None:
    longer = [replace(row, generated=row.generated * 2) for row in TWO["first"]]
    runs = {"first": TWO["first"], "second": longer}
    text = Page(write(tmp_path, runs, compared(runs, [LENGTH]))).text
    assert "length (lower is better)" in text
    assert "second is worse than first in length: +" in text
    same = {"first": TWO["first"], "second": TWO["first"]}
    text = Page(write(tmp_path, same)).text
    assert "No difference between second and first in rule-F1 micro-14 is shown: +0.000" in text
    assert "in four of five samples" not in text
    assert "Where they differ most" not in text


def test_what_is_not_shown_is_told_apart(tmp_path: Path) -> None:
    comparison = compared(TWO)
    (row,) = comparison.differences["rule_f1_micro_14"]

    def told(p: float, p_holm: float) -> str:
        other = comparison.differences | {"rule_f1_micro_14": (replace(row, p=p, p_holm=p_holm),)}
        return Page(write(tmp_path, TWO, replace(comparison, differences=other))).text

    alone = (
        "second is better than first in rule-F1 micro-14 by this test alone, but not after the correction for"
    )
    assert alone in told(0.04, 0.3)
    assert alone not in told(0.06, 0.3)
    assert "No difference" in told(0.06, 0.3)
    untested = told(math.nan, math.nan)
    assert "between second and first in rule-F1 micro-14 cannot be tested: +" in untested
    assert "p -" not in untested


def test_six_runs_are_columns_of_the_tables_and_reports_of_each_image(tmp_path: Path) -> None:
    runs = {f"run {number}": run(24, number) for number in range(1, 7)}
    html = write(tmp_path, runs)
    head = html.partition("</thead>")[0]
    assert re.findall(r'data-sort="descending">([^<]*)', head) == [
        *runs,
        *(f"{name} &minus; run 1" for name in list(runs)[1:]),
    ]
    card = html.split('<details class="card"')[1]
    assert re.findall(r"<h3>([^<]*)</h3>", card) == ["Reference", *runs]
    values = compared(runs).most_different["rule_f1_micro_14"][0].values
    assert re.findall(r'class="chip none">run \d <b>([\d.]+)<', card) == [f"{value:.3f}" for value in values]


def test_findings_are_marked_in_all_reports(tmp_path: Path) -> None:
    runs = {
        "first": [prediction(0, LEFT, RIGHT), *run(4, 5)[1:]],
        "second": [prediction(0, LEFT, LEFT), *run(4, 5)[1:]],
    }
    html = write(tmp_path, runs)
    reference, first, second = html.split('<details class="card"')[1].split("<h3>")[1:4]
    assert '<mark class="missed" title="missed: left pleural effusion">' in reference
    assert "+ invented: right pleural effusion" in first
    assert "&#10003; left pleural effusion" in second


@pytest.mark.parametrize("metrics", [(), (ABSENT,)])
def test_page_without_any_score(tmp_path: Path, metrics: tuple[Metric, ...]) -> None:
    assert "No score could be computed." in Page(write(tmp_path, TWO, compared(TWO, metrics))).text


def test_phantoms_come_first(tmp_path: Path) -> None:
    comparison = compared(TWO, (*METRICS, *PHANTOM))
    assert "in phantom finding F1" in write(tmp_path, TWO, comparison, synthetic=True)
    assert "in phantom finding F1" not in write(tmp_path, TWO, comparison)


def test_texts_are_escaped(tmp_path: Path) -> None:
    rows = [Prediction(EVIL, "s", EVIL, text, {EVIL: EVIL}, "") for text in ("Clear.", EVIL)]
    runs = {EVIL: [rows[0]], f"{EVIL} 2": [rows[1]]}
    comparison = replace(compared(runs), not_computed={EVIL: EVIL})
    html = write(tmp_path, runs, comparison, curves={EVIL: Curves([(1, 1.0)], [])})
    assert EVIL in Page(html).text
    assert html.count("<script>") == html.count("</script>") == 1
