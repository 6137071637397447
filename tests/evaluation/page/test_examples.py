"""Which examples are shown, their marks, and their pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.evaluation.runs import prediction
from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.evaluation.page.examples import (
    PictureFolder,
    Piece,
    choose_examples,
    example_cards,
    highlight,
    highlight_phantom,
    names_of,
)


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
        [(piece.text, piece.kind) for piece in of_report]
        for of_report in highlight_phantom(reference, generated)
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
    pieces, _ = highlight(reference, "The lungs are clear.")
    assert names_of(pieces, "missed") == names


def marked(pieces: list[Piece]) -> list[Piece]:
    return [piece for piece in pieces if piece.kind]


def test_agree_missed_invented() -> None:
    reference = "Findings: Cardiomegaly. Left pleural effusion. No edema."
    generated = "The heart is normal. Left effusion. Edema. No pneumothorax."
    in_reference, in_generated = map(marked, highlight(reference, generated))
    assert [piece[:2] for piece in in_reference] == [("Cardiomegaly", "missed"), ("effusion", "agree")]
    assert [piece[:2] for piece in in_generated] == [("effusion", "agree"), ("Edema", "invented")]
    assert (in_generated[0].label, in_generated[0].side) == ("Pleural Effusion", "left")


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
    reports = map(marked, highlight(reference, generated))
    assert tuple(next((piece.kind for piece in pieces), None) for pieces in reports) == kinds


def test_words_of_two_classes_are_one_piece() -> None:
    reference = "There is a left hydropneumothorax."
    (piece,) = marked(highlight(reference, "Left pneumothorax.")[0])
    assert piece.text == "hydropneumothorax"
    assert set(piece.label.split(", ")) == {"Pleural Effusion", "Pneumothorax"}
    assert (piece.kind, piece.side) == ("missed", "left")
    (piece,) = marked(highlight(reference, "Left pneumothorax. Left effusion.")[0])
    assert piece.kind == "agree"


def test_pieces_put_together_are_the_report() -> None:
    text = (
        "Nodular opacity, hydropneumothorax and effusion; pacemaker lead, wires. Cardiac silhouette enlarged."
    )
    pieces, _ = highlight(text, "")
    assert len(marked(pieces)) >= 5
    assert "".join(piece.text for piece in pieces) == text
    assert {piece.kind for piece in marked(pieces)} == {"missed"}


def test_nothing_to_mark() -> None:
    assert highlight("", "") == ([], [])
    assert [*map(marked, highlight("The lungs are clear.", "No effusion."))] == [[], []]


def test_pictures_by_name(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    Image.new("L", (4, 2), 7).save(tmp_path / "deep/a.png")
    Image.new("I;16", (3, 3)).save(tmp_path / "b.PNG")
    pictures = PictureFolder(tmp_path)
    for name in ("a", "a.png", "deep/a", "deep/a.png"):
        picture = pictures(name)
        assert picture is not None
        assert (picture.size, picture.getpixel((0, 0))) == ((4, 2), 7)
    deep = pictures("b")
    assert deep is not None
    assert deep.mode == "L"
    assert pictures("c") is None


def test_folders_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such folder"):
        PictureFolder(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no picture"):
        PictureFolder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png: is none of DICOM, JPEG"):
        PictureFolder(tmp_path)("a")
