from __future__ import annotations

import pytest

from xraygpt.evaluation.priors import compares_with_prior


@pytest.mark.parametrize(
    "sentence",
    [
        "Stable cardiomegaly.",
        "Unchanged right pleural effusion since ___.",
        "Compared to the prior examination, the left effusion has increased.",
        "The effusion is larger than on the previous chest radiograph.",
        "No change from prior study.",
        "No significant interval change.",
        "Interval removal of the endotracheal tube.",
        "Sternotomy wires are again noted.",
        "The pneumothorax has resolved.",
        "Worsening edema.",
        "Heart size remains normal.",
        "In comparison with the study of ___, there is little overall change.",
        "As compared to the previous radiograph, the nodule is smaller.",
        "There is a new left basilar opacity.",
        "The previously seen nodule is no longer visible.",
        "Persistent low lung volumes.",
        "No new focal consolidation.",
        "Recommend comparison with old films.",
    ],
)
def test_comparison(sentence: str) -> None:
    assert compares_with_prior(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "The lungs are clear.",
        "Sequelae of prior granulomatous disease.",
        "Prior cholecystectomy and old rib fractures.",
        "Degenerative changes of the spine.",
        "No acute bony changes of the ribs.",
        "Increased interstitial markings.",
        "Effusions, right greater than left.",
        "A density that is asymmetric compared to the left.",
        "Recommend a radiograph to document resolution.",
        "Short interval follow up is suggested.",
        "If clinical concern persists, CT may help.",
        "The remaining lungs are clear.",
        "Newborn chest, line against the heart.",
    ],
)
def test_no_comparison(sentence: str) -> None:
    assert not compares_with_prior(sentence)
