"""The rule labeller on sentences of every kind: negation, uncertainty, side, each class, whole reports."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.labeller import read_by_labeller, read_sentences, score_sentences
from xraygpt.datasets.phantom.report import write_report
from xraygpt.datasets.phantom.truth import Truth, all_findings, draw_truth
from xraygpt.evaluation.labeller import (
    CLASSES,
    Status,
    find_mentions,
    finding_sides,
    label_report,
    positive_findings,
)
from xraygpt.evaluation.labeller_lexicon import HINTS, PATTERNS, REPLACED

HARD_SENTENCES = Path(__file__).parent / "labeller_sentences"
DEVELOPMENT = read_sentences(HARD_SENTENCES / "development.jsonl")
PHANTOM_CLASSES = {
    "cardiomegaly": "Cardiomegaly",
    "pulmonary edema": "Edema",
    "consolidation": "Consolidation",
    "nodule": "Lung Lesion",
    "pleural effusion": "Pleural Effusion",
    "pneumothorax": "Pneumothorax",
    "pacemaker": "Support Devices",
    "central line": "Support Devices",
    "sternotomy wires": "Support Devices",
}
"""Phantom finding -> class; hyperinflation has none."""
LATERAL_CLASSES = ("Consolidation", "Lung Lesion", "Pleural Effusion", "Pneumothorax")
SHORT = {
    "ecm": "Enlarged Cardiomediastinum",
    "heart": "Cardiomegaly",
    "opacity": "Lung Opacity",
    "lesion": "Lung Lesion",
    "edema": "Edema",
    "consolidation": "Consolidation",
    "pneumonia": "Pneumonia",
    "atelectasis": "Atelectasis",
    "pneumothorax": "Pneumothorax",
    "effusion": "Pleural Effusion",
    "pleural": "Pleural Other",
    "fracture": "Fracture",
    "device": "Support Devices",
}
SIGNS = {"+": Status.POSITIVE, "-": Status.NEGATIVE, "?": Status.UNCERTAIN}


def expected(labels: str) -> dict[str, Status]:
    """Read ``"+heart -effusion ?edema"``."""
    return {SHORT[word[1:]]: SIGNS[word[0]] for word in labels.split()}


def said(text: str) -> dict[str, Status]:
    return {label: status for label, status in label_report(text).items() if label != "No Finding"}


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("The mediastinum is widened.", "+ecm"),
        ("Widened superior mediastinum.", "+ecm"),
        ("Mediastinal widening is present.", "+ecm"),
        ("The cardiomediastinal silhouette is enlarged.", "+ecm"),
        ("There is mild cardiomegaly.", "+heart"),
        ("The heart is moderately enlarged.", "+heart"),
        ("Heart size is enlarged.", "+heart"),
        ("Enlarged cardiac silhouette.", "+heart"),
        ("Patchy opacity in the left lower lobe.", "+opacity"),
        ("Bibasilar airspace disease.", "+opacity"),
        ("There is a right lower lobe infiltrate.", "+opacity"),
        ("Increased interstitial markings.", "+opacity"),
        ("Density in the right lung base.", "+opacity"),
        ("There is a 6 mm nodule in the right apex.", "+lesion"),
        ("A large mass is seen in the left upper lobe.", "+lesion"),
        ("Mild pulmonary edema.", "+edema"),
        ("Pulmonary vascular congestion.", "+edema"),
        ("Findings of congestive heart failure.", "+edema"),
        ("Dense consolidation of the left lower lobe.", "+consolidation"),
        ("Right middle lobe pneumonia.", "+pneumonia"),
        ("Plate-like atelectasis at the bases.", "+atelectasis"),
        ("Collapse of the left upper and lower lobes.", "+atelectasis"),
        ("There is a collapsed left lung.", "+atelectasis"),
        ("Tiny right apical pneumothorax.", "+pneumothorax"),
        ("Small bilateral pleural effusions.", "+effusion"),
        ("Fluid in the minor fissure.", "+effusion"),
        ("Left hydropneumothorax.", "+effusion +pneumothorax"),
        ("Biapical pleural thickening.", "+pleural"),
        ("Calcified pleural plaques.", "+pleural"),
        ("There is a fracture of the sternotomy wire.", "+device"),
        ("Old healed rib fractures.", "+fracture"),
        ("Prior rib fracture on the left.", "+fracture"),
        ("A dual lead pacemaker is present.", "+device"),
        ("Right PICC with its tip in the SVC.", "+device"),
        ("Endotracheal tube ends 4.5 cm above the carina.", "+device"),
        ("Median sternotomy wires are intact.", "+device"),
        ("Nasogastric tube courses below the diaphragm, its tip is not seen.", "+device"),
    ],
)
def test_each_class(text: str, labels: str) -> None:
    assert said(text) == expected(labels)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("No pneumothorax.", "-pneumothorax"),
        ("No effusion, pneumothorax or consolidation.", "-effusion -pneumothorax -consolidation"),
        ("No evidence of pneumonia.", "-pneumonia"),
        ("There is no definite pleural effusion.", "-effusion"),
        ("No XXXX of an effusion is seen.", "-effusion"),
        (
            "Negative for pneumothorax, pleural effusion or focal consolidation.",
            "-effusion -pneumothorax -consolidation",
        ),
        ("Lungs are free of consolidation and edema.", "-consolidation -edema"),
        ("Lungs are clear of infiltrates.", "-opacity"),
        ("The lungs are clear.", "-opacity"),
        ("Pleural spaces are clear.", "-effusion"),
        ("The pleural effusion has resolved.", "-effusion"),
        ("Interval resolution of the right effusion.", "-effusion"),
        ("Pleural effusion is not seen.", "-effusion"),
        ("The effusion is no longer seen.", "-effusion"),
        ("No focal opacity to suggest pneumonia.", "-opacity -pneumonia"),
        ("No findings suggestive of edema.", "-edema"),
        ("Absence of pneumothorax.", "-pneumothorax"),
        ("The heart size and pulmonary vascularity are normal.", "-heart"),
        ("No evidence of acute process such as pneumonia or edema.", "-pneumonia -edema"),
        ("No rib fracture is identified, although the view is limited.", "-fracture"),
        ("Neither effusion nor pneumothorax.", "-effusion -pneumothorax"),
        ("Pneumothorax: none.", "-pneumothorax"),
        ("No pneumothorax, large effusion, or edema.", "-pneumothorax -effusion -edema"),
        ("No new consolidation.", "-consolidation"),
        ("The heart is normal in size.", "-heart"),
        ("Heart size normal.", "-heart"),
        ("The cardiac silhouette is not enlarged.", "-heart"),
        ("Heart size is within normal limits.", "-heart"),
        ("Cardiomediastinal silhouette is unremarkable.", "-ecm"),
        ("Normal heart size and mediastinal contours.", "-heart -ecm"),
        ("The mediastinum is not widened.", "-ecm"),
        ("The chest tube has been removed.", "-device"),
        ("Interval removal of the endotracheal tube.", "-device"),
        ("The heart is not enlarged and there is no edema.", "-heart -edema"),
        ("The tube has also been removed.", "-device"),
        ("Effusion, pneumothorax, and edema are not seen.", "-effusion -pneumothorax -edema"),
        ("Effusion, edema or consolidation is not seen.", "-effusion -edema -consolidation"),
        ("The effusion, seen on the prior film, has resolved.", "-effusion"),
        ("The effusion on the film dated ___, ___ is not seen.", "-effusion"),
        ("Interstitial markings within normal limits.", "-opacity"),
        ("Normal and stable cardiomediastinal contours.", "-ecm"),
    ],
)
def test_negation(text: str, labels: str) -> None:
    assert said(text) == expected(labels)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("No change in the right effusion.", "+effusion"),
        ("No interval change in cardiomegaly.", "+heart"),
        ("No significant interval change of the left consolidation.", "+consolidation"),
        ("The effusion has not significantly changed.", "+effusion"),
        ("Bibasilar atelectasis without significant change.", "+atelectasis"),
        ("No increase in the effusion.", "+effusion"),
        ("No pneumothorax, but there is a small effusion.", "-pneumothorax +effusion"),
        ("No pneumothorax. Left effusion.", "-pneumothorax +effusion"),
        ("No pneumothorax; left effusion.", "-pneumothorax +effusion"),
        ("No pneumothorax, small left effusion.", "-pneumothorax +effusion"),
        ("Cardiomegaly without edema.", "+heart -edema"),
        ("Stable cardiomegaly with no effusion.", "+heart -effusion"),
        ("The lungs are clear except for a nodule.", "-opacity +lesion"),
        (
            "Effusion and atelectasis obscure the base, no pneumothorax.",
            "+effusion +atelectasis -pneumothorax",
        ),
        ("Edema is improving and the effusion is smaller.", "+edema +effusion"),
        ("The heart is enlarged, lungs are clear.", "+heart -opacity"),
        ("Heart size is normal, the mediastinum is widened.", "-heart +ecm"),
        ("Opacity consistent with atelectasis.", "+opacity +atelectasis"),
        ("Opacity likely representing atelectasis.", "+opacity +atelectasis"),
        ("Heart size stable, large right effusion.", "+effusion"),
        ("Heart size is stable and prominent interstitial markings.", "+opacity"),
        ("Pneumothorax has not changed.", "+pneumothorax"),
        ("There is a left effusion, and no right pneumothorax.", "+effusion -pneumothorax"),
        ("Atelectasis but no infiltrate.", "+atelectasis -opacity"),
        ("The pneumothorax is not seen, left effusion is unchanged.", "-pneumothorax +effusion"),
        ("No pneumothorax is seen, left effusion is unchanged.", "-pneumothorax +effusion"),
        ("No pneumothorax is identified and the heart is enlarged.", "-pneumothorax +heart"),
        ("The heart is not enlarged, left effusion.", "-heart +effusion"),
        ("Edema has resolved, left effusion persists.", "-edema +effusion"),
        ("Effusion is absent, consolidation is present.", "-effusion +consolidation"),
        ("Without evidence of edema, bibasilar atelectasis is stable.", "-edema +atelectasis"),
        ("No pneumothorax and a small effusion.", "-pneumothorax +effusion"),
        ("Removal of the chest tube with small residual pneumothorax.", "-device +pneumothorax"),
        ("No pneumothorax, atelectasis persists.", "-pneumothorax +atelectasis"),
        ("New consolidation, not seen previously.", "+consolidation"),
        ("Consolidation not present on the prior film.", "+consolidation"),
        ("Near complete resolution of the pneumonia.", "+pneumonia"),
        ("The effusion has almost completely resolved.", "+effusion"),
        ("The pneumonia has not yet resolved.", "+pneumonia"),
        ("Edema has largely resolved.", "+edema"),
        ("Heart size is enlarged, pulmonary vascularity within normal limits.", "+heart"),
        ("Heart size is enlarged, aortic contours are within normal limits.", "+heart"),
        ("The heart is enlarged and vascularity is within normal limits.", "+heart"),
        ("Left effusion, pneumothorax has resolved.", "+effusion -pneumothorax"),
        ("Bibasilar atelectasis, pneumonia is not excluded.", "+atelectasis ?pneumonia"),
        ("Atelectasis rather than pneumonia.", "+atelectasis -pneumonia"),
        ("Not only atelectasis but an effusion.", "+atelectasis +effusion"),
    ],
)
def test_negation_does_not_reach_too_far(text: str, labels: str) -> None:
    assert said(text) == expected(labels)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Possible small effusion.", "?effusion"),
        ("Opacity which may represent atelectasis or pneumonia.", "+opacity ?atelectasis ?pneumonia"),
        ("Pneumonia cannot be excluded.", "?pneumonia"),
        ("Superimposed pneumonia is not excluded.", "?pneumonia"),
        ("A small effusion cannot be completely excluded.", "?effusion"),
        ("Cannot exclude a small pneumothorax.", "?pneumothorax"),
        ("Findings suspicious for malignancy.", "?lesion"),
        ("This is concerning for pneumonia.", "?pneumonia"),
        ("Rule out pneumonia.", "?pneumonia"),
        ("Questionable nodule in the left apex.", "?lesion"),
        ("Atelectasis versus consolidation.", "?atelectasis ?consolidation"),
        ("Streaky opacity in the left base, atelectasis versus scarring.", "+opacity ?atelectasis"),
        ("Borderline cardiomegaly.", "?heart"),
        ("Heart size is at the upper limits of normal.", "?heart"),
        ("The heart is borderline enlarged.", "?heart"),
        ("Cardiac silhouette is top normal.", "?heart"),
        ("Pleural effusion, if any, is small.", "?effusion"),
        ("Pneumonia is a possibility.", "?pneumonia"),
        ("The differential diagnosis includes atypical infection.", "?pneumonia"),
        ("No pneumothorax, possible effusion.", "-pneumothorax ?effusion"),
        ("Stable silhouette of the heart with borderline cardiomegaly.", "?heart"),
        ("Cardiomediastinal silhouette with borderline cardiomegaly.", "?heart"),
        ("Small effusions are suspected.", "?effusion"),
        ("Pneumonia is unlikely.", "?pneumonia"),
    ],
)
def test_uncertainty(text: str, labels: str) -> None:
    assert said(text) == expected(labels)


@pytest.mark.parametrize(
    "text",
    [
        "History of rib fracture.",
        "History of pneumonia and edema.",
        "An effusion was seen on the prior CT.",
        "Clear trachea. On a previous scan, the apex was consolidated.",
        "There is a pericardial effusion.",
        "Mild soft tissue edema.",
        "There is mass effect on the trachea.",
        "Calcified granuloma.",
        "Scarring in the right apex.",
        "Please note that fractures may not be visible on radiographs.",
        "CT is more sensitive in detecting small nodules.",
        "CT is recommended to evaluate for a nodule.",
        "The midline structures are in place.",
        "A portable view was taken.",
        "The lungs are hyperinflated.",
    ],
)
def test_words_that_say_nothing_of_a_class(text: str) -> None:
    assert said(text) == {}


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Possible effusion. Small effusion. No effusion.", "+effusion"),
        ("No effusion. Possible effusion.", "?effusion"),
        ("Indication: pneumonia. Findings: No effusion.", "-effusion"),
        ("INDICATION: Rule out pneumonia.\n\nFINDINGS: Cardiomegaly.\n", "+heart"),
        ("Comparison: effusion on the prior film.\n\nThe heart is enlarged.", "+heart"),
        ("History: chest pain, pneumonia. Impression: 1. Cardiomegaly. 2. No edema.", "+heart -edema"),
        ("IMPRESSION:\n1. No pneumothorax\n2. Cardiomegaly", "-pneumothorax +heart"),
        ("Small right\n  pleural\n  effusion.", "+effusion"),
        ("Nodule measuring 4.5 cm, no effusion", "+lesion -effusion"),
        ("CARDIOMEGALY. NO EFFUSION.", "+heart -effusion"),
        ("Stable ___ cardiomegaly, compared to ___ no effusion.", "+heart -effusion"),
        ("FINDINGS AND IMPRESSION: Edema.", "+edema"),
        ("PA AND LATERAL CHEST: Edema.", "+edema"),
        ("AP and lateral views: Edema.", "+edema"),
        ("Compared to the prior study: Edema.", "+edema"),
    ],
)
def test_whole_reports(text: str, labels: str) -> None:
    assert said(text) == expected(labels)


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("Small left pleural effusion.", {"Pleural Effusion": {"left"}}),
        ("Effusion on the right.", {"Pleural Effusion": {"right"}}),
        ("Bilateral effusions.", {"Pleural Effusion": {"left", "right"}}),
        ("Left greater than right effusions.", {"Pleural Effusion": {"left", "right"}}),
        ("Left effusion. Right effusion.", {"Pleural Effusion": {"left", "right"}}),
        ("Left effusion and right pneumothorax.", {"Pleural Effusion": {"left"}, "Pneumothorax": {"right"}}),
        (
            "Effusion on the left and consolidation on the right.",
            {"Pleural Effusion": {"left"}, "Consolidation": {"right"}},
        ),
        ("Left effusion and atelectasis.", {"Pleural Effusion": {"left"}, "Atelectasis": {"left"}}),
        ("Consolidation in the right lower lobe.", {"Consolidation": {"right"}}),
        ("Left base opacity, atelectasis.", {"Lung Opacity": {"left"}, "Atelectasis": {"left"}}),
        ("Right IJ line with its tip in the left ventricle.", {"Support Devices": {"right"}}),
        ("Nodular opacity in the right upper lobe.", {"Lung Opacity": {"right"}, "Lung Lesion": {"right"}}),
        (
            "Opacity in the left base likely represents atelectasis.",
            {"Lung Opacity": {"left"}, "Atelectasis": {"left"}},
        ),
        ("The lungs show left lower lobe consolidation.", {"Consolidation": {"left"}}),
        ("Lingular atelectasis.", {"Atelectasis": {"left"}}),
        ("Middle lobe consolidation.", {"Consolidation": {"right"}}),
        ("Bibasilar atelectasis.", {"Atelectasis": {"left", "right"}}),
        ("Cardiomegaly with left effusion.", {"Cardiomegaly": set(), "Pleural Effusion": {"left"}}),
        ("No left effusion. Effusion.", {"Pleural Effusion": set()}),
        ("There is a pacemaker with leads in the right atrium.", {"Support Devices": set()}),
        ("No right effusion.", {}),
    ],
)
def test_sides(text: str, sides: dict[str, set[str]]) -> None:
    assert finding_sides(text) == sides


def test_no_finding_is_the_absence_of_all_but_devices() -> None:
    assert label_report("The lungs are clear.")["No Finding"] == Status.POSITIVE
    assert label_report("Scoliosis.") == {"No Finding": Status.POSITIVE}
    assert label_report("A pacemaker is present. No effusion.")["No Finding"] == Status.POSITIVE
    assert "No Finding" not in label_report("Possible effusion.")
    assert "No Finding" not in label_report("Cardiomegaly.")
    assert label_report(" \n") == {}


def test_positive_findings_are_the_positive_classes_only() -> None:
    text = "Cardiomegaly, possible edema, no effusion. A pacemaker is present."
    assert positive_findings(text) == {"Cardiomegaly", "Support Devices"}
    assert positive_findings("The lungs are clear.") == frozenset()


def test_labels_come_in_the_order_of_the_classes() -> None:
    labels = list(label_report("Pacemaker. Effusion. Cardiomegaly. Edema."))
    assert labels == sorted(labels, key=CLASSES.index)
    assert len(CLASSES) == len(set(CLASSES)) == 14


def test_mentions_say_where_they_stand() -> None:
    text = "FINDINGS: The\n  heart is\n  enlarged. No  pleural\n effusion. İ Left consolidation"
    found = {(m.label, text[m.start : m.end], m.side) for m in find_mentions(text)}
    assert found == {
        ("Cardiomegaly", "heart is\n  enlarged", ""),
        ("Pleural Effusion", "effusion", ""),
        ("Consolidation", "consolidation", "left"),
    }


@pytest.mark.parametrize("kind", sorted({sentence.kind for sentence in DEVELOPMENT}))
def test_hard_sentences(kind: str) -> None:
    sentences = [sentence for sentence in DEVELOPMENT if sentence.kind == kind]
    read = [(s, *read_by_labeller(s)) for s in sentences]
    wrong = [(s.text, *labels) for s, *labels in read if labels != [s.labels, s.sides]]
    assert wrong == []


def test_held_back_sentences_are_read_as_well_as_they_were() -> None:
    sentences = read_sentences(HARD_SENTENCES / "held_back.jsonl")
    assert score_sentences(sentences)["**all**"].scores()[2] >= 0.89


def test_corrects_mistypings_and_keeps_their_places() -> None:
    text = "No  pnuemothorax.\nSmall rigth  plueral efusion, cardiomegally."
    found = [(m.label, m.status, text[m.start : m.end], m.side) for m in find_mentions(text)]
    assert found == [
        ("Pneumothorax", Status.NEGATIVE, "pnuemothorax", ""),
        ("Pleural Effusion", Status.POSITIVE, "efusion", "right"),
        ("Cardiomegaly", Status.POSITIVE, "cardiomegally", ""),
    ]


def test_real_words_are_no_mistypings() -> None:
    words = (
        "enlarge nodule opacity effusions module infusion heat chest lift felt formal cordial plural fluid"
    )
    assert [word for word in words.split() if REPLACED.get(word, word) != word] == ["plural"]


def test_hints_lose_no_term() -> None:
    texts = [sentence.text.lower() for sentence in DEVELOPMENT]
    missed = {
        (label, match.group())
        for label, _, pattern in PATTERNS
        for text in texts
        for match in pattern.finditer(text)
        if label in HINTS and not any(hint in text for hint in HINTS[label])
    }
    assert missed == set()


def drawn(count: int) -> list[tuple[Truth, str]]:
    rng = random.Random(3)
    truths = [draw_truth(rng) for _ in range(count)] + [(finding,) for finding in all_findings()] * 5
    return [(truth, write_report(truth, rng)) for truth in truths]


def test_reads_the_reports_of_phantoms() -> None:
    for truth, text in drawn(500):
        classes = {PHANTOM_CLASSES[f.name] for f in truth if f.name in PHANTOM_CLASSES}
        # Two phrasings describe the edema and the consolidation as opacities, which is a class of its own.
        assert positive_findings(text) - {"Lung Opacity"} == classes, text
        assert Status.UNCERTAIN not in label_report(text).values(), text


def test_reads_the_sides_of_phantoms() -> None:
    for truth, text in drawn(500):
        sides = {label: side for label, side in finding_sides(text).items() if label in LATERAL_CLASSES}
        true: dict[str, set[str | None]] = {}
        for finding in truth:
            label = PHANTOM_CLASSES.get(finding.name)
            if label in LATERAL_CLASSES:
                true.setdefault(label, set()).add(finding.side)
        assert sides == true, text
