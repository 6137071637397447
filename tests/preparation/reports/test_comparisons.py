from __future__ import annotations

import pytest

from xraygpt.evaluation.priors import compares_with_prior
from xraygpt.preparation.reports.comparisons import remove_comparison


@pytest.mark.parametrize(
    ("sentence", "cleaned"),
    [
        ("Stable cardiomegaly.", "Cardiomegaly."),
        ("There is stable mild cardiomegaly.", "There is mild cardiomegaly."),
        ("Cardiomegaly is unchanged.", "Cardiomegaly."),
        ("The aorta is tortuous but stable.", "The aorta is tortuous."),
        ("Unchanged right pleural effusion since XXXX.", "Right pleural effusion."),
        ("Compared to the prior examination, the left effusion has increased.", "Left effusion."),
        ("As compared to the previous radiograph, there is edema.", "There is edema."),
        ("There are nodules, similar to prior exams.", "There are nodules."),
        ("There is an effusion that is larger than on the prior study.", "There is an effusion."),
        ("No change in the large hiatal hernia.", "Large hiatal hernia."),
        ("Interval increase in size of the left pneumothorax.", "Left pneumothorax."),
        ("Redemonstration of a calcified granuloma.", "A calcified granuloma."),
        ("Sternotomy wires are again noted.", "Sternotomy wires are noted."),
        ("Worsening pulmonary edema.", "Pulmonary edema."),
        ("Heart size remains enlarged.", "Heart size is enlarged."),
        ("A patchy infiltrate has developed in the left base.", "A patchy infiltrate in the left base."),
        ("No edema or significant interval change.", "No edema."),
        ("Heart size normal, stable mediastinal contours.", "Heart size normal."),
        ("The left pleural effusion has resolved.", "No left pleural effusion."),
        ("Near complete resolution of the left effusion.", "Left effusion."),
        ("Scar which is unchanged from prior and may be fibrosis.", "Scar which may be fibrosis."),
        ("The heart is enlarged with no comparison studies.", "The heart is enlarged."),
    ],
)
def test_finding_stays(sentence: str, cleaned: str) -> None:
    assert remove_comparison(sentence) == cleaned
    assert not compares_with_prior(cleaned)


@pytest.mark.parametrize(
    "sentence",
    [
        "No change from prior study.",
        "Comparison is made to the radiograph of ___.",
        "The cardiomediastinal silhouette is stable.",
        "These are unchanged.",
        "Stable exam.",
        "Interval removal of the right PICC.",
        "The endotracheal tube has been removed.",
        "Correlation with prior films would be helpful.",
    ],
)
def test_mere_comparison_goes(sentence: str) -> None:
    assert remove_comparison(sentence) == ""


def test_other_sentences_stay_as_they_are() -> None:
    sentence = "the lungs are clear ,and the heart is large"
    assert remove_comparison(sentence) == sentence
