from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from tests.evaluation.runs import prediction
from xraygpt.evaluation.metrics.catalogue import offline_metrics, phantom_metrics
from xraygpt.evaluation.page.page_examples import choose_examples, example_cards
from xraygpt.evaluation.page.page_marks import highlight_phantom, marked_pieces
from xraygpt.evaluation.page.page_scores import WORDING, ScoreRow, comparison_rows, grouped_rows, verdict
from xraygpt.evaluation.page.page_text import duration, figure, percent_of, sort_key


def row(value: float, low: float = math.nan, high: float = math.nan, **options: float) -> ScoreRow:
    controls: Mapping[str, float] = options
    return ScoreRow("f1", "an F1", value, low, high, controls=controls)


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
    cards = example_cards([(each, "random") for each in rows], [], None, phantoms=False)
    assert [card.columns for card in cards] == [{"view": "PA"}, {}]


def test_an_empty_report_is_an_error() -> None:
    (card,) = example_cards([(prediction(0, "The lungs are clear.", " "), "worst")], [], None, phantoms=False)
    assert card.missed == ["any text"]
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
        (row(0.5, 0.4, 0.6, shuffled=0.1, blind_bound=0.45), "reaches down to “blind bound”"),
        (row(0.5, 0.4, 0.6, shuffled=0.6, blind=0.5), "No better than “shuffled” and “blind”"),
        (row(math.nan), "not defined"),
    ],
)
def test_verdict(first: ScoreRow, expected: str) -> None:
    words = verdict(first, comparison_rows(first, {}))
    assert expected in words
    assert bool(words) == bool(expected)


def test_controls_that_are_not_known_are_left_out() -> None:
    compared = comparison_rows(row(0.5, shuffled=0.1, blind_bound=math.nan), {"untrained": 0.2})
    assert [(each.title, each.value) for each in compared] == [("shuffled", 0.1), ("untrained", 0.2)]


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
