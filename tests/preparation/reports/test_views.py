from __future__ import annotations

import pytest

from xraygpt.preparation.reports.views import forget_unseen, mentions_view, remove_view


@pytest.mark.parametrize(
    ("sentence", "cleaned"),
    [
        ("PA and lateral views of the chest were obtained.", ""),
        ("AP view.", ""),
        ("Frontal and lateral chest radiographs.", ""),
        ("2 images.", ""),
        ("The XXXX examination consists of frontal and lateral radiographs of the chest.", ""),
        ("Frontal and lateral views of the chest show clear lungs.", "Clear lungs."),
        ("An opacity is seen on the lateral view.", "An opacity is seen."),
        ("Scar in the lingula, best seen on the frontal projection.", "Scar in the lingula."),
        ("Heart size is normal for AP technique.", "Heart size is normal."),
        ("A scar is identified both on PA and lateral views.", "A scar is identified."),
        ("Stable nodule (lateral view).", "Stable nodule."),
        ("Unremarkable 2 views of the chest.", "Unremarkable chest."),
        ("PA and lateral chest show the lungs to be clear.", "The lungs are clear."),
        ("Scar on the lateral view, however further evaluation with decubitus views would help.", "Scar."),
        ("Small nodule the lateral view.", "Small nodule."),
        (
            "Frontal views of the chest with overlying leads demonstrate a large heart.",
            "Overlying leads; a large heart.",
        ),
    ],
)
def test_view_is_removed(sentence: str, cleaned: str) -> None:
    assert mentions_view(sentence)
    assert remove_view(sentence) == cleaned
    assert not mentions_view(cleaned)


@pytest.mark.parametrize(
    ("sentence", "left"),
    [
        ("Scar seen on the PA view, not identified on the lateral view.", "Scar seen on the PA view."),
        ("There is a 2.5 cm mass, not well-seen on the lateral view.", "There is a 2.5 cm mass."),
        ("This is not seen on the lateral view.", "This is not seen on the lateral view."),
    ],
)
def test_what_one_view_does_not_show_denies_nothing(sentence: str, left: str) -> None:
    assert forget_unseen(sentence) == left


@pytest.mark.parametrize("sentence", ["Fracture of the left lateral 8th rib.", "Normal chest examination."])
def test_other_sentences_mention_no_view(sentence: str) -> None:
    assert not mentions_view(sentence)
