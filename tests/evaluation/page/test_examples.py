"""Which examples are shown, and their marks."""

from __future__ import annotations

import pytest

from tests.evaluation.runs import prediction
from xraygpt.evaluation.page.examples import (
    GeneratedReport,
    Piece,
    Reader,
    choose_examples,
    make_cards,
    mark,
    read_classes,
    read_phantom,
)
from xraygpt.evaluation.predictions import Prediction


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


def card_of(
    *rows: Prediction, read: Reader | None = read_classes
) -> tuple[list[Piece], list[GeneratedReport]]:
    """The reports of one image by several runs."""
    (card,) = make_cards([({f"run {i}": row for i, row in enumerate(rows)}, "worst")], [], None, read)
    return card.reference, card.reports


def test_cards_tell_columns_that_are_short_and_differ() -> None:
    rows = [
        prediction(0, "a", "b", columns={"prompt": "Describe.", "view": "PA", "note": "x" * 50}),
        prediction(1, "a", "b", columns={"prompt": "Describe.", "view": "", "note": "y"}),
    ]
    cards = make_cards([({"run": each}, "random") for each in rows], [], None, read_classes)
    assert [card.columns for card in cards] == [{"view": "PA"}, {}]


def test_an_empty_report_is_an_error() -> None:
    _, (report,) = card_of(prediction(0, "The lungs are clear.", " "))
    assert report.missed == ["any text"]
    assert report.pieces == []
    assert report.invented == report.agreed == []


def test_reports_of_several_runs_are_each_held_against_the_reference() -> None:
    reference = "Cardiomegaly. Left effusion. Edema."
    generated = ("Cardiomegaly. Edema.", "Cardiomegaly. Bilateral effusions.", "Fracture. Cardiomegaly.")
    pieces, reports = card_of(*(prediction(0, reference, text) for text in generated))
    # A finding that any run misses is marked in the reference.
    assert [piece[:2] for piece in marked(pieces)] == [
        ("Cardiomegaly", "agree"),
        ("effusion", "missed"),
        ("Edema", "missed"),
    ]
    assert [report.name for report in reports] == ["run 0", "run 1", "run 2"]
    assert [report.missed for report in reports] == [
        ["left pleural effusion"],
        ["edema"],
        ["edema", "left pleural effusion"],
    ]
    assert [report.invented for report in reports] == [[], ["bilateral pleural effusion"], ["fracture"]]
    assert [report.agreed for report in reports] == [
        ["cardiomegaly", "edema"],
        ["cardiomegaly"],
        ["cardiomegaly"],
    ]


def test_nothing_is_marked_without_a_reader() -> None:
    pieces, (report,) = card_of(prediction(0, "Cardiomegaly.", "Edema."), read=None)
    assert (pieces, report.pieces) == ([Piece("Cardiomegaly.")], [Piece("Edema.")])
    assert report.agreed == report.missed == report.invented == []


def both(reference: str, generated: str, read: Reader = read_classes) -> tuple[list[Piece], list[Piece]]:
    return mark(reference, [generated], read, "missed"), mark(generated, [reference], read, "invented")


def test_marks_of_phantoms() -> None:
    reference = (
        "Findings: The heart is enlarged. There is a nodule in the left mid zone. Impression: No edema."
    )
    generated = "Findings: Cardiomegaly. There is a nodule in the right mid zone. "
    pieces = [[piece[:2] for piece in of_report] for of_report in both(reference, generated, read_phantom)]
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
    _, (report,) = card_of(prediction(0, reference, "The lungs are clear."))
    assert report.missed == names


def marked(pieces: list[Piece]) -> list[Piece]:
    return [piece for piece in pieces if piece.kind]


def test_agree_missed_invented() -> None:
    reference = "Findings: Cardiomegaly. Left pleural effusion. No edema."
    generated = "The heart is normal. Left effusion. Edema. No pneumothorax."
    in_reference, in_generated = map(marked, both(reference, generated))
    assert [piece[:2] for piece in in_reference] == [("Cardiomegaly", "missed"), ("effusion", "agree")]
    assert [piece[:2] for piece in in_generated] == [("effusion", "agree"), ("Edema", "invented")]
    assert in_generated[0].findings == ["left pleural effusion"]


@pytest.mark.parametrize(
    ("reference", "generated", "kinds"),
    [
        ("Left effusion.", "Right effusion.", ("missed", "invented")),
        ("Left effusion.", "Effusion.", ("agree", "agree")),
        ("Effusion.", "Left effusion.", ("agree", "agree")),
        ("Bilateral effusions.", "Left effusion.", ("missed", "agree")),
        ("Left effusion.", "Bilateral effusions.", ("agree", "invented")),
        ("Left effusion.", "Possible left effusion.", ("missed", None)),
    ],
)
def test_sides(reference: str, generated: str, kinds: tuple[str, str | None]) -> None:
    reports = map(marked, both(reference, generated))
    assert tuple(next((piece.kind for piece in pieces), None) for pieces in reports) == kinds


def test_words_of_two_classes_are_one_piece() -> None:
    reference = "There is a left hydropneumothorax."
    effusion, pneumothorax = "left pleural effusion", "left pneumothorax"
    for generated, kind, findings in (
        ("The lungs are clear.", "missed", {effusion, pneumothorax}),
        ("Left pneumothorax.", "missed", {effusion}),  # only what is missed is told
        ("Left pneumothorax. Left effusion.", "agree", {effusion, pneumothorax}),
    ):
        (piece,) = marked(both(reference, generated)[0])
        assert (piece.text, piece.kind, set(piece.findings)) == ("hydropneumothorax", kind, findings)


def test_a_sentence_of_two_findings_of_a_phantom_tells_the_one_that_is_missed() -> None:
    reference = "There is a nodule in the left mid zone and in the right mid zone."
    (piece,) = both(reference, "There is a nodule in the left mid zone.", read_phantom)[0]
    assert piece == Piece(reference, "missed", ["right nodule"])


def test_pieces_put_together_are_the_report() -> None:
    text = (
        "Nodular opacity, hydropneumothorax and effusion; pacemaker lead, wires. Cardiac silhouette enlarged."
    )
    pieces, _ = both(text, "")
    assert len(marked(pieces)) >= 5
    assert "".join(piece.text for piece in pieces) == text
    assert {piece.kind for piece in marked(pieces)} == {"missed"}


def test_nothing_to_mark() -> None:
    assert both("", "") == ([], [])
    assert [*map(marked, both("The lungs are clear.", "No effusion."))] == [[], []]
