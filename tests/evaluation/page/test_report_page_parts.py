from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.evaluation.runs import prediction
from xraygpt.evaluation.metrics.catalogue import offline_metrics, phantom_metrics
from xraygpt.evaluation.page.page_examples import choose_examples, example_cards
from xraygpt.evaluation.page.page_marks import highlight, highlight_phantom, marked_pieces, names_of
from xraygpt.evaluation.page.page_scores import WORDING, ScoreRow, comparison_rows, grouped_rows, verdict
from xraygpt.evaluation.page.report_page import duration, figure, percent_of, sort_key


def row(value: float, low: float = math.nan, high: float = math.nan, **options: float) -> ScoreRow:
    controls: Mapping[str, float] = options
    return ScoreRow("f1", "an F1", value, low, high, controls=controls)


def rate(name: str, value: float, low: float, high: float, **controls: float) -> ScoreRow:
    return ScoreRow(name, "a rate", value, low, high, higher_is_better=False, controls=controls)


def test_half_of_the_examples_are_the_worst_and_no_study_comes_twice() -> None:
    rows = [prediction(i, "a", "b", study=f"study {i // 2}") for i in range(40)]
    worst = [rows[i].image_id for i in (7, 6, 30, 2, 11)]
    chosen = choose_examples(rows, worst, 6)
    assert [(each.image_id, why) for each, why in chosen[:3]] == [
        (rows[i].image_id, "worst") for i in (7, 30, 2)
    ]
    assert [why for _, why in chosen[3:]] == ["random"] * 3
    assert len({each.study_id for each, _ in chosen}) == 6
    assert choose_examples(rows[::-1], worst, 6) == chosen


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, 1), (24, 3)])
def test_choice_from_few(count: int, shown: int) -> None:
    rows = [prediction(i, "a", "b") for i in range(3)]
    assert len(choose_examples(rows, [rows[0].image_id], count)) == shown


def test_cards_tell_columns_that_are_short_and_differ() -> None:
    rows = [
        prediction(0, "a", "b", columns={"prompt": "Describe.", "view": "PA", "note": "x" * 50}),
        prediction(1, "a", "b", columns={"prompt": "Describe.", "view": "", "note": "y"}),
    ]
    cards = example_cards([(each, "random") for each in rows], [], None, highlight)
    assert [card.columns for card in cards] == [{"view": "PA"}, {}]


def test_an_empty_report_is_an_error() -> None:
    (card,) = example_cards([(prediction(0, "The lungs are clear.", " "), "worst")], [], None, highlight)
    assert card.missed == ["any text"]
    assert card.generated == []
    assert card.invented == card.agreed == []


def test_marks_of_phantoms() -> None:
    reference = (
        "Findings: The heart is enlarged. There is a nodule in the left mid zone. Impression: No edema."
    )
    generated = "Findings: Cardiomegaly. There is a nodule in the right mid zone. "
    pieces = [
        [(piece.text, piece.kind) for piece in marked_pieces(text, spans)]
        for text, spans in zip((reference, generated), highlight_phantom(reference, generated), strict=True)
    ]
    assert pieces[0] == [
        ("Findings: ", ""),
        ("The heart is enlarged.", "agree"),
        (" ", ""),
        ("There is a nodule in the left mid zone.", "missed"),
        (" Impression: No edema.", ""),
    ]
    assert pieces[1][3] == ("There is a nodule in the right mid zone.", "invented")
    assert "".join(text for text, _ in pieces[1]) == generated


@pytest.mark.parametrize(
    ("first", "expected"),
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
        (rate("errors", 0.1, 0.05, 0.15, shuffled=0.2, blind=0.3), ""),
        (
            rate("errors", 0.1, 0.05, 0.15, shuffled=0.2, blind=0.12),
            "The interval reaches to “blind”: the score may be no better.",
        ),
        (
            rate("errors", 0.1, 0.05, 0.15, shuffled=0.1, blind=0.3),
            "No better than “shuffled”: this score is no sign that the reports depend on the images.",
        ),
        # Shuffling does nothing to a score that looks at the generated reports alone.
        (rate("contradictions", 0.1, 0.05, 0.15, shuffled=0.1, blind=0.3), ""),
        (
            rate("contradictions", 0.1, 0.05, 0.15, shuffled=0.1, blind=0.0),
            "No better than “blind”: a constant report reaches as much in this score.",
        ),
        (replace(row(30.0, 29, 31, shuffled=30.0, blind=60.0), equals="words; descriptive"), ""),
    ],
)
def test_verdict(first: ScoreRow, expected: str) -> None:
    assert verdict(first, comparison_rows(first, {})) == expected


def test_controls_that_are_not_known_are_left_out() -> None:
    compared = comparison_rows(row(0.5, shuffled=0.1, blind_bound=math.nan), {"untrained": 0.2})
    assert [(each.title, each.value) for each in compared] == [("shuffled", 0.1), ("untrained", 0.2)]


@pytest.mark.parametrize(
    ("reference", "names"),
    [
        ("Bilateral edema. Edema.", ["bilateral edema"]),
        ("Left edema. Edema.", ["left edema"]),
        ("Left pneumothorax. Bilateral pneumothorax.", ["bilateral pneumothorax"]),
        ("Left pneumothorax. Right pneumothorax.", ["left pneumothorax", "right pneumothorax"]),
        ("Edema. Left pneumothorax.", ["edema", "left pneumothorax"]),
    ],
)
def test_a_finding_is_named_once(reference: str, names: list[str]) -> None:
    spans, _ = highlight(reference, "The lungs are clear.")
    assert names_of(spans, "missed") == names


def test_every_metric_stands_under_its_heading() -> None:
    metrics = (*phantom_metrics(), *offline_metrics())
    groups = grouped_rows({m.name: ScoreRow(m.name, m.title, 0, 0, 0) for m in metrics})
    names = {heading: {each.name for each in rows} for heading, rows in groups.items()}
    assert {"phantom_f1", "rule_f1_micro_14", "laterality_f1"} <= names["Findings"]
    assert all(name.startswith(("rouge", "bleu", "sacrebleu", "meteor", "cider")) for name in names[WORDING])
    errors = {m.name for m in metrics if not m.higher_is_better}
    assert names["Errors"] == errors
    assert sum(map(len, names.values())) == len(metrics)


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


def test_numbers() -> None:
    assert [percent_of(value, 10) for value in (2.5, -1, 20, math.nan)] == ["25.00", "0.00", "100.00", "0.00"]
    assert percent_of(5, math.inf) == "0.00"
    assert [sort_key(0.25), sort_key(math.nan)] == ["0.25", ""]
    assert [duration(x) for x in (12.4, 200, 3661)] == ["12 s", "3 min 20 s", "1 h 1 min"]
