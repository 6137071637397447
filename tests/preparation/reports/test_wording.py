from __future__ import annotations

import pytest

from xraygpt.preparation.reports.wording import CUT, mend, says_something


@pytest.mark.parametrize(
    ("text", "mended"),
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
    ],
)
def test_mend(text: str, mended: str) -> None:
    assert mend(text) == mended


def test_says_something() -> None:
    assert says_something("Large heart")
    assert not says_something("The heart size and mediastinal contours are")
