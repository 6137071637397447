from __future__ import annotations

import random

import pytest

from xraygpt.datasets.phantom.report import write_report
from xraygpt.datasets.phantom.truth import draw_truth
from xraygpt.evaluation.metrics.contradictions import CONTRADICTIONS, find_contradictions


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Findings: Left pleural effusion. Impression: No pleural effusion.", "Pleural Effusion"),
        ("No pneumothorax or effusion. The heart is normal. There is a right pneumothorax.", "Pneumothorax"),
        ("Findings: The heart is enlarged. Impression: Heart size is normal.", "Cardiomegaly"),
        ("Bilateral effusions are present. There is no left effusion.", "Pleural Effusion"),
        ("There is a nodule in the left lung. No nodules are seen.", "Lung Lesion"),
        ("No opacity. There is an opacity in the right base.", "Lung Opacity"),
        (
            "Findings: There is a pneumothorax. Impression: No acute cardiopulmonary abnormality.",
            "Pneumothorax",
        ),
        ("Findings: Left effusion. Impression: Right effusion.", "Pleural Effusion"),
        ("FINDINGS:\nThere is a nodule in the right lung.\n\nIMPRESSION:\nLeft lung nodule.", "Lung Lesion"),
    ],
)
def test_contradiction(text: str, label: str) -> None:
    (found,) = find_contradictions(text)
    assert found.asserted.label == found.other.label == label
    assert text[found.asserted.start : found.asserted.end].strip()
    assert found.asserted.start != found.other.start


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No pneumothorax. No effusion. Impression: No pneumothorax.",
        "Findings: Left effusion. Right effusion. Impression: Left effusion.",
        "Left effusion. Right effusion.",
        "Findings: Left effusion. Impression: Bilateral effusions.",
        "Findings: Left effusion. Impression: Effusion.",
        "Small left effusion. There is no right effusion.",
        "Small effusion. There is no right effusion.",
        "Old rib fractures. No acute fracture.",
        "Small left effusion. No large effusion or pneumothorax. Small pneumothorax.",
        "Nodule in the left lung. No other nodule.",
        "Calcified nodule in the left lung. No suspicious nodule.",
        "Patchy opacity in the left base. No focal airspace opacity.",
        "Coarse interstitial markings. No infiltrate.",
        "Vascular congestion. No edema.",
        "Possible pneumonia. No pneumonia.",
        "Cardiomegaly. No acute cardiopulmonary abnormality.",
        "Left chest tube is in place. The right chest tube has been removed.",
        "Findings: Left picc line. Impression: Right chest tube.",
        "Indication: pneumothorax. Findings: No pneumothorax.",
        "The right pneumothorax is small, no left pneumothorax.",
    ],
)
def test_no_contradiction(text: str) -> None:
    assert find_contradictions(text) == ()


def test_one_contradiction_for_a_class() -> None:
    text = "Left effusion. No effusion. Small left effusion. Pneumothorax. No pneumothorax."
    assert [c.asserted.label for c in find_contradictions(text)] == ["Pleural Effusion", "Pneumothorax"]


def test_rate_of_the_generated_reports() -> None:
    bad, good = "Left effusion. No effusion.", "Left effusion. No pneumothorax."
    assert CONTRADICTIONS([bad] * 4, [good, bad, good, ""]) == 0.25
    assert not CONTRADICTIONS.higher_is_better


def test_phantom_reports_do_not_contradict_themselves() -> None:
    rng = random.Random(11)
    reports = [write_report(draw_truth(rng), rng) for _ in range(300)]
    assert [text for text in reports if find_contradictions(text)] == []
