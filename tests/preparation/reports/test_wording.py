from __future__ import annotations

import pytest

from xraygpt.preparation.reports.wording import CUT, breaks_off, close_cuts, says_something, sentence_case


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        (f"{CUT}cardiomegaly.", "Cardiomegaly."),
        (f"Heart size normal, {CUT}aortic contour.", "Heart size normal."),
        (f"The {CUT} effusion.", "Effusion."),
        (f"There is an {CUT} mass.", "There is a mass."),
        (f"There is a {CUT} ICD.", "There is an ICD."),
        (f"These {CUT}.", ""),
        (f"The heart {CUT}.", ""),
        (f"{CUT} and scar, and {CUT}.", "Scar."),
        (f"The mediastinum {CUT} with tortuous aorta.", "Tortuous aorta."),
        (f"Nodule ( {CUT} ) in the apex .", "Nodule in the apex."),
        (f"If clinically indicated, {CUT}", ""),
        (f"Normal in size and {CUT} with wires.", "Normal in size with wires."),
        (f"Otherwise, scar {CUT}.", "Scar."),
        (f"Opacities, seen only {CUT}, scar.", "Opacities, scar."),
        (f"The cardiopulmonary silhouettes {CUT}.", ""),
    ],
)
def test_close_cuts(text: str, closed: str) -> None:
    assert close_cuts(text) == closed


@pytest.mark.parametrize(
    "text",
    [
        "A nodule which does not.",
        "These were and may represent scars.",
        "This was seen well.",
        "An opacity is identified both and represents a scar.",
        "The opacity is seen in and about of the apex.",
        "The tip is at the is normal.",
        "Could be seen with CT.",
        "There is one.",
        "Including a tortuous aorta.",
        "Cardiac silhouette to be normal.",
    ],
)
def test_breaks_off(text: str) -> None:
    assert breaks_off(text, "A nodule is seen.")
    assert not breaks_off(text, text)


@pytest.mark.parametrize(
    "text",
    [
        "The lungs are clear, and there is no effusion.",
        "Nodule in the left lung which is calcified.",
        "It is likely due to at least a scar.",
        "The line is in place and ends in the atrium.",
        "Some of the opacities are seen in both bases.",
    ],
)
def test_whole_sentence(text: str) -> None:
    assert not breaks_off(text, "A nodule is seen.")


def test_what_was_not_broken_before_is_broken_now() -> None:
    assert breaks_off("Silhouette to be normal.", "Two views demonstrate the silhouette to be normal.")


def test_says_something() -> None:
    assert says_something("Large heart")
    assert not says_something("The heart size and mediastinal contours are")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("SMALL EFFUSION.THERE IS NO EDEMA.", "Small effusion.There is no edema."),
        ("1. NO CHANGE SINCE XXXX. 2) PICC AT T8.", "1. No change since XXXX. 2) PICC at T8."),
        ("no picc. dr. doe was told at ___.", "No PICC. Dr. doe was told at ___."),
        ("AP VIEW. XXXX AND LEFT BASE ARE CLEAR, 2.5 CM", "AP view. XXXX and left base are clear, 2.5 cm"),
        ("The lungs are clear. NO EFFUSION.", "The lungs are clear. NO EFFUSION."),
        ("COPD.", "COPD."),
        ("XXXX.", "XXXX."),
        ("", ""),
    ],
)
def test_sentence_case(text: str, written: str) -> None:
    assert sentence_case(text) == written
