from __future__ import annotations

import pytest

from xraygpt.evaluation.priors import compares_with_prior
from xraygpt.preparation.reports.comparisons import remove_comparison


@pytest.mark.parametrize(
    ("sentence", "cleaned"),
    [
        ("Stable cardiomegaly.", "Cardiomegaly."),
        ("Opacity in the base also appears unchanged, likely scars.", "Opacity in the base, likely scars."),
        ("Stable cardiomegaly and mediastinal contour.", "Cardiomegaly."),
        ("Granuloma, stable The lungs are clear.", "Granuloma. The lungs are clear."),
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
        ("Redemonstration of a calcified granuloma.", "Calcified granuloma."),
        ("Grossly stable left consolidation.", "Left consolidation."),
        ("Stable density dating back to exams in 2009, likely a scar.", "Density, likely a scar."),
        ("Stable appearance of the chest suggesting edema.", "Appearance of the chest suggesting edema."),
        ("Interval removal of a stent without any abnormality.", "No abnormality."),
        ("Sternotomy wires are again noted.", "Sternotomy wires are noted."),
        ("Worsening pulmonary edema.", "Pulmonary edema."),
        ("Heart size remains enlarged.", "Heart size is enlarged."),
        ("A patchy infiltrate has developed in the left base.", "Patchy infiltrate in the left base."),
        ("No edema or significant interval change.", "No edema."),
        ("Heart size normal, stable mediastinal contours.", "Heart size normal."),
        ("The left pleural effusion has resolved.", "No left pleural effusion."),
        ("Near complete resolution of the left effusion.", "Left effusion."),
        ("Scar which is unchanged from prior and may be fibrosis.", "Scar which may be fibrosis."),
        ("The heart is enlarged with no comparison studies.", "The heart is enlarged."),
        ("The left pneumothorax has almost resolved.", "Left pneumothorax."),
        ("Pulmonary edema has partially resolved.", "Pulmonary edema."),
        ("The consolidation has not yet cleared.", "Consolidation."),
        ("The edema has now completely resolved.", "No edema."),
        ("The effusion has resolved with a tiny residual in the fissure.", "Effusion."),
        ("Resolution of the minimal left effusion.", "No minimal left effusion."),
        ("Largely resolved edema.", "Edema."),
        ("The right effusion, which was large, is now moderate.", "The right effusion is moderate."),
        ("The right effusion, previously large, is now moderate.", "The right effusion is moderate."),
        ("The right effusion was large and is now moderate.", "The right effusion is moderate."),
        ("A nodule in the apex which does not appear on the prior CT.", "Nodule in the apex."),
        ("These were not present on the prior CT and may represent scars.", "These may represent scars."),
        ("Decreased right pneumothorax.", "Right pneumothorax."),
        ("Smaller effusions.", "Effusions."),
        ("The line remains in place.", "The line is in place."),
        (
            "Residual opacities remain which may represent scars.",
            "Residual opacities which may represent scars.",
        ),
        ("No new pneumonia.", "No acute pneumonia."),
        ("No edema, effusion or new nodules.", "No edema, effusion or other nodules."),
        ("No new acute infiltrate.", "No acute infiltrate."),
        ("No effusion and a new nodule.", "No effusion and a nodule."),
        ("No progression of the nodule in the apex.", "Nodule in the apex."),
        ("Improved aeration of the bases and effusions.", "Effusions."),
        ("Interval removal of the tube, no pneumothorax.", "No pneumothorax."),
        ("Removal of the tube with a small effusion.", "Small effusion."),
        ("Mild infiltrate, similar to slightly improved from ___.", "Mild infiltrate."),
        ("COPD with almost completely resolved edema.", "COPD with edema."),
        ("Without comparisons, this may be infection.", "This may be infection."),
        ("No change in left effusion or scar.", "Left effusion and scar."),
        ("The heart is normal in size and unchanged with wires.", "The heart is normal in size with wires."),
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
        "Tube has also been removed.",
        "No acute interval change.",
        "Otherwise, the lungs are unchanged.",
        "The effusion was seen on the prior CT.",
        "Previously there was an effusion.",
        "No nodules seen within the lungs on the prior CT.",
        "No evidence of progression of the metastases.",
        "Correlation with prior films would be helpful.",
    ],
)
def test_mere_comparison_goes(sentence: str) -> None:
    assert remove_comparison(sentence) == ""


def test_other_sentences_stay_as_they_are() -> None:
    sentence = "the lungs are clear ,and the heart is large"
    assert remove_comparison(sentence) == sentence
