from __future__ import annotations

import pytest

from xraygpt.evaluation.priors import compares_with_prior, tells_only_of_prior


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
        "Decreased right pneumothorax.",
        "Smaller effusions.",
        "The tube has also been removed.",
        "Previously there was an effusion.",
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
        "Chronic lung disease with no acute changes.",
        "Decreased lung volumes.",
        "Larger right than left effusion.",
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


@pytest.mark.parametrize(
    "sentence",
    [
        "Effusion was seen on the prior CT.",
        "Nodules were also identified in the left lung on the chest CT from ___.",
        "On the previous radiograph, the effusion was large.",
        "The prior CT demonstrated a nodule.",
        "There was an effusion previously.",
        "No effusion was present on the prior study.",
    ],
)
def test_only_of_prior(sentence: str) -> None:
    assert tells_only_of_prior(sentence)
    assert compares_with_prior(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "Nodules were seen on the prior CT and are unchanged.",
        "The nodule was not present on the prior CT.",
        "On the prior CT, the nodule was not present.",
        "There is a nodule which was seen on the prior CT.",
        "An effusion was seen in the left base.",
        "The effusion was seen on the prior CT, stable.",
        "Gas in the colon, which was also seen on the prior CT.",
    ],
)
def test_also_of_now(sentence: str) -> None:
    assert not tells_only_of_prior(sentence)
