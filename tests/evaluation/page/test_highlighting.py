from __future__ import annotations

from itertools import pairwise

import pytest

from xraygpt.evaluation.page.page_marks import Span, highlight


def marked(text: str, spans: list[Span]) -> list[tuple[str, str]]:
    return [(text[span.start : span.end], span.kind) for span in spans]


def test_agree_missed_invented() -> None:
    reference = "Findings: Cardiomegaly. Left pleural effusion. No edema."
    generated = "The heart is normal. Left effusion. Edema. No pneumothorax."
    in_reference, in_generated = highlight(reference, generated)
    assert marked(reference, in_reference) == [("Cardiomegaly", "missed"), ("effusion", "agree")]
    assert marked(generated, in_generated) == [("effusion", "agree"), ("Edema", "invented")]
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
    spans = highlight(reference, generated)
    assert tuple(next((span.kind for span in side), None) for side in spans) == kinds


def test_words_of_two_classes_are_one_span() -> None:
    reference = "There is a left hydropneumothorax."
    (span,), _ = highlight(reference, "Left pneumothorax.")
    assert reference[span.start : span.end] == "hydropneumothorax"
    assert set(span.label.split(", ")) == {"Pleural Effusion", "Pneumothorax"}
    assert (span.kind, span.side) == ("missed", "left")
    (span,), _ = highlight(reference, "Left pneumothorax. Left effusion.")
    assert span.kind == "agree"


def test_spans_are_in_order_and_apart() -> None:
    text = (
        "Nodular opacity, hydropneumothorax and effusion; pacemaker lead, wires. Cardiac silhouette enlarged."
    )
    spans, _ = highlight(text, "")
    assert len(spans) >= 5
    assert all(a.end <= b.start for a, b in pairwise(spans))
    assert {span.kind for span in spans} == {"missed"}


def test_nothing_to_mark() -> None:
    assert highlight("", "") == ([], [])
    assert highlight("The lungs are clear.", "No effusion.") == ([], [])
