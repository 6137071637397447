from __future__ import annotations

import pytest

from xraygpt.evaluation.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        (" . ", []),
        ("Clear lungs", ["Clear lungs"]),
        ("Heart is large.\nLungs\nare clear.", ["Heart is large.", "Lungs are clear."]),
        ("No effusion\n\nNo edema", ["No effusion", "No edema"]),
        ("1. No acute disease. 2. Stable.", ["No acute disease.", "Stable."]),
        ("1.Edema 2) Nodule in rib 5. 3., Mild scar", ["Edema", "Nodule in rib 5.", "Mild scar"]),
        ("1. 2.5 cm mass. 2. 8 mm nodule.", ["2.5 cm mass.", "8 mm nodule."]),
        ("2.5 cm nodule at T6. Clear.", ["2.5 cm nodule at T6.", "Clear."]),
        ("Called to Dr. Doe at 5 p.m. today.", ["Called to Dr. Doe at 5 p.m. today."]),
        ("Seen at 9 a.m. The lungs are clear.", ["Seen at 9 a.m.", "The lungs are clear."]),
        ("Lesions, e.g. a granuloma, vs. a scar. OK?", ["Lesions, e.g. a granuloma, vs. a scar.", "OK?"]),
        ("In the left apex.There is scar.", ["In the left apex.", "There is scar."]),
        ("Fracture of rib 5. No effusion.", ["Fracture of rib 5.", "No effusion."]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences
