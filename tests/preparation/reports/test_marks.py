from __future__ import annotations

import pytest

from xraygpt.preparation.reports.marks import has_mark, loses_abnormality, remove_marks, restore_words


@pytest.mark.parametrize(
    ("sentence", "cleaned"),
    [
        ("No XXXX focal consolidation.", "No new focal consolidation."),
        ("No ___ nodule is seen.", "No new nodule is seen."),
        ("No effusion or XXXX focal consolidation.", "No effusion or new focal consolidation."),
        ("Without evidence of [**Word**] edema.", "Without evidence of new edema."),
        ("There is ___ atelectasis in the left base.", "There is atelectasis in the left base."),
        ("Negative chest x-XXXX.", "Negative chest x-ray."),
        ("Calcified hilar lymph XXXX.", "Calcified hilar lymph nodes."),
        ("Blunting of the left costophrenic XXXX.", "Blunting of the left costophrenic angle."),
        ("There are XXXX sternotomy XXXX.", "There are sternotomy wires."),
        ("Left XXXX-a-XXXX is in XXXX.", "Left Port-a-Cath is in place."),
        ("There are no XXXX of a large effusion.", "There are no signs of a large effusion."),
        ("The heart, left XXXX and mediastinum are normal.", "The heart and mediastinum are normal."),
        ("The heart and left XXXX are normal.", "The heart is normal."),
        ("The heart and pulmonary XXXX are normal.", "The heart and pulmonary vessels are normal."),
        ("XXXX are osteopenic.", "Bones are osteopenic."),
        ("XXXX and soft tissues are unremarkable.", "Bones and soft tissues are unremarkable."),
        ("The heart is large, and the left XXXX are engorged.", "The heart is large."),
        ("Clear lung XXXX bilaterally.", "Clear lung fields bilaterally."),
        ("Granuloma seen on the CT from XXXX.", "Granuloma seen on the CT."),
        ("Left basilar opacities XXXX atelectasis.", "Left basilar opacities, likely atelectasis."),
        ("Left basilar opacities, ___ scarring.", "Left basilar opacities, likely scarring."),
        ("Opacity in the base XXXX represents scars.", "Opacity in the base likely represents scars."),
        ("Opacity in the base, XXXX due to pneumonia.", "Opacity in the base, likely due to pneumonia."),
        ("The appearance XXXX scarring.", "The appearance may be scarring."),
        ("This is XXXX a hernia.", "This is likely a hernia."),
        ("Opacity on the frontal XXXX reflects a fold.", "Opacity on the frontal view reflects a fold."),
        ("No effusion, XXXX scarring.", "No effusion, scarring."),
        ("Nodule measuring 7 XXXX in the apex.", "Nodule in the apex."),
        ("Degenerative changes of the XXXX.", "Degenerative changes."),
        (
            "Opacity in the left base, most XXXX chronic scarring.",
            "Opacity in the left base, most likely chronic scarring.",
        ),
        ("Atelectasis of the XXXX due to scars.", "Atelectasis due to scars."),
        ("Large heart with XXXX of early failure.", "Large heart with signs of early failure."),
        ("There is no evidence of XXXX, focal infiltrate.", "There is no evidence of focal infiltrate."),
        ("No acute or XXXX pulmonary abnormality.", "No acute pulmonary abnormality."),
        ("Heart size XXXX within normal limits.", "Heart size is within normal limits."),
        ("Large heart, less XXXX pericardial effusion.", "Large heart, less likely pericardial effusion."),
        ("Lungs XXXX clear.", "Lungs are clear."),
        ("The XXXX are grossly intact.", "The bones are grossly intact."),
        ("XXXX are normal.", "Bones are normal."),
        ("Normal XXXX.", "Normal bones."),
        ("Cardiac and mediastinal XXXX appear normal.", "Cardiac and mediastinal contours appear normal."),
        ("Aortic XXXX appear unremarkable.", "Aortic contours appear unremarkable."),
        ("Heart size is XXXX within normal limits.", "Heart size is likely within normal limits."),
        ("XXXX normal heart size.", "Normal heart size."),
        ("Lungs are XXXX without edema.", "Lungs are without edema."),
        ("Pacemaker with dual-XXXX XXXX in place.", "Pacemaker with dual-lead device in place."),
        ("The right base is clear, but XXXX given rotation, large.", "The right base is clear."),
        ("XXXX XXXX, including a tortuous aorta.", "Tortuous aorta."),
        ("A rib fracture on the right, due to XXXX and cough.", "Rib fracture on the right, due to cough."),
        ("The nodule seen on XXXX is small.", "The nodule is small."),
        (
            "There is abnormal separation of right XXXX XXXX, question acute injury.",
            "There is abnormal separation on the right, question acute injury.",
        ),
        ("Monitor leads XXXX the thorax.", "Monitor leads overlie the thorax."),
        ("Mild anterior XXXX deformities at L1.", "Mild anterior wedge deformities at L1."),
        (
            "Rib fractures are better appreciated on the XXXX chest comparison.",
            "Rib fractures are appreciated.",
        ),
        ("There is extraluminal XXXX free XXXX.", "There is extraluminal free gas."),
        ("There is a central line with a XXXX lumen on XXXX.", "There is a central line."),
        ("This may represent superimposed XXXX.", "This may represent superimposed structures."),
        (
            "Right basilar opacity with blunting of the costophrenic XXXX.",
            "Right basilar opacity with blunting of the costophrenic angle.",
        ),
        (
            "There is an incompletely visualized XXXX arising.",
            "There is an incompletely visualized structure arising.",
        ),
        ("Soft tissue XXXX around ankle.", "Soft tissue swelling around ankle."),
        ("Tubing overlying the left XXXX, XXXX to reside within.", "Tubing overlying the left side."),
        ("Severe degenerative changes of both XXXX.", "Severe degenerative changes on both sides."),
        ("Arthritis in the spine and both XXXX.", "Arthritis in the spine and on both sides."),
        ("Disease is seen in the spine and left XXXX XXXX.", "Disease is seen in the spine and on the left."),
        ("Granulomas in the bilateral XXXX and lung.", "Granulomas on both sides and in the lung."),
        ("Within the heart XXXX, there is a density.", "Within the heart shadow, there is a density."),
        ("May reflect sequela of old remote XXXX.", "May reflect sequela of old remote trauma."),
        ("Obscuration due to overlying XXXX.", "Obscuration due to overlying structures."),
        ("XXXX, soft tissues, and alignment are normal.", "Bones, soft tissues, and alignment are normal."),
        (
            "Opacities XXXX due at XXXX in part to atelectasis.",
            "Opacities likely due at least in part to atelectasis.",
        ),
        (
            "Cardiomegaly XXXX at XXXX partially accentuated by low volumes.",
            "Cardiomegaly likely at least partially accentuated by low volumes.",
        ),
        (
            "Blunting of the costophrenic XXXX XXXX represents scarring.",
            "Blunting of the costophrenic angle likely represents scarring.",
        ),
        (
            "Blunting of the costophrenic XXXX, and XXXX secondary to scarring.",
            "Blunting of the costophrenic angles, likely secondary to scarring.",
        ),
    ],
)
def test_mark_is_removed(sentence: str, cleaned: str) -> None:
    assert has_mark(sentence)
    assert remove_marks(sentence) == cleaned


@pytest.mark.parametrize(
    "sentence",
    [
        "XXXX.",
        "The left XXXX are large.",
        "The XXXX are large.",
        "Lung volumes are XXXX.",
        "XXXX study performed in XXXX is not available for review at this time.",
        "Findings were discussed XXXX by Dr. XXXX at XXXX p.m. XXXX/XXXX.",
        "If there are any questions about this examination please XXXX.",
    ],
)
def test_sentence_without_its_noun_goes(sentence: str) -> None:
    assert remove_marks(sentence) == ""


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        ("There are broken XXXX.", "", True),
        ("Swelling and deformity of the XXXX.", "Swelling.", True),
        ("Swelling and deformity of the XXXX.", "Swelling and deformity.", False),
        ("The XXXX are normal.", "", False),
        ("No broken XXXX.", "", False),
        ("Recommend XXXX to evaluate the deformity.", "", False),
        ("The deformity was discussed with Dr. XXXX.", "", False),
    ],
)
def test_abnormal_words_may_go_with_advice_denials_and_notices_only(
    before: str, after: str, lost: bool
) -> None:
    assert loses_abnormality(before, after) is lost


def test_restored_words_leave_the_rest() -> None:
    assert (
        restore_words("XXXX sternotomy XXXX at the aortic XXXX.")
        == "XXXX sternotomy wires at the aortic arch."
    )
    assert restore_words("The lungs are clear.") == "The lungs are clear."


def test_many_marks_take_no_endless_time() -> None:
    assert remove_marks("XXXX " * 300) == remove_marks("X" * 3000) == ""
