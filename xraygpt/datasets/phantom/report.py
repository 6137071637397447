"""Write the report of a phantom: findings and impression in a radiologist's English, several phrasings each.

A report says nothing that is not in the image. The phrasings and ``xraygpt.evaluation.metrics.phantom``
belong together: the extractor recovers the truth from every report written here (tested on thousands).
"""

from __future__ import annotations

import random

from xraygpt.datasets.phantom.truth import DEVICES, Truth

NORMAL_HEART = (
    "The heart is normal in size.",
    "Heart size is within normal limits.",
    "The cardiac silhouette is not enlarged.",
)
CLEAR_LUNGS = (
    "The lungs are clear.",
    "No focal airspace opacity is seen.",
    "No consolidation or nodule is seen.",
)
NO_PLEURAL_FINDING = (
    "No pleural effusion or pneumothorax.",
    "There is no pneumothorax or pleural effusion.",
    "The pleural spaces are clear without effusion or pneumothorax.",
)
NO_EFFUSION = ("No pleural effusion.", "There is no pleural effusion.")
NO_PNEUMOTHORAX = ("No pneumothorax.", "There is no pneumothorax.")
NORMAL_IMPRESSION = (
    "No acute cardiopulmonary abnormality.",
    "No acute cardiopulmonary process.",
    "No evidence of acute disease.",
)

# In the order of both sections: heart, lungs, pleura, devices.
FINDING_SENTENCES: dict[str, tuple[str, ...]] = {
    "cardiomegaly": (
        "The heart is enlarged.",
        "There is cardiomegaly.",
        "The cardiac silhouette is enlarged.",
    ),
    "pulmonary edema": (
        "There is pulmonary edema.",
        "Perihilar opacities on both sides are consistent with pulmonary edema.",
        "Hazy perihilar opacities with septal lines reflect pulmonary edema.",
    ),
    "hyperinflation": (
        "The lungs are hyperinflated.",
        "The lungs are hyperinflated with flattened diaphragms.",
        "There is hyperinflation with flattening of the diaphragms.",
    ),
    "consolidation": (
        "There is consolidation in the {side} {zone} zone.",
        "Airspace opacity in the {side} {zone} zone is consistent with consolidation.",
        "The {side} {zone} zone shows consolidation.",
    ),
    "nodule": (
        "There is a nodule in the {side} {zone} zone.",
        "A rounded nodule projects over the {side} {zone} zone.",
        "The {side} {zone} zone shows a nodule.",
    ),
    "pleural effusion": (
        "There is a {size} {side} pleural effusion.",
        "A {size} {side} pleural effusion is present.",
        "A {size} pleural effusion is seen on the {side}.",
    ),
    "pneumothorax": (
        "There is a {size} {side} pneumothorax.",
        "A {size} {side} pneumothorax is present.",
        "A {size} pneumothorax is seen on the {side}.",
    ),
    "pacemaker": (
        "A pacemaker is in place.",
        "There is a pacemaker with two leads.",
        "A dual lead pacemaker is present.",
    ),
    "central line": (
        "A central line ends in the superior vena cava.",
        "A central line is in place.",
        "There is a central line with its tip in the superior vena cava.",
    ),
    "sternotomy wires": (
        "Sternotomy wires are present.",
        "There are sternotomy wires.",
        "Midline sternotomy wires are seen.",
    ),
}
IMPRESSION_PHRASES: dict[str, tuple[str, ...]] = {
    "cardiomegaly": ("Cardiomegaly.", "Enlarged heart."),
    "pulmonary edema": ("Pulmonary edema.",),
    "hyperinflation": ("Hyperinflation.", "Hyperinflated lungs."),
    "consolidation": ("{side} {zone} zone consolidation.", "Consolidation in the {side} {zone} zone."),
    "nodule": ("{side} {zone} zone nodule.", "Nodule in the {side} {zone} zone."),
    "pleural effusion": ("{size} {side} pleural effusion.",),
    "pneumothorax": ("{size} {side} pneumothorax.",),
}


def write_report(truth: Truth, rng: random.Random) -> str:
    """The report of a phantom: ``Findings: … Impression: …``, with ``rng`` choosing the phrasing."""
    return f"Findings: {' '.join(_findings(truth, rng))} Impression: {' '.join(_impression(truth, rng))}"


def keywords(truth: Truth, rng: random.Random) -> str:
    """The findings as a comma-separated list in random order; ``normal`` for a normal phantom."""
    phrases = [finding.phrase for finding in truth]
    rng.shuffle(phrases)
    return ", ".join(phrases) or "normal"


def _findings(truth: Truth, rng: random.Random) -> list[str]:
    sentences = {name: _sentences(FINDING_SENTENCES, truth, name, rng) for name in FINDING_SENTENCES}
    heart = sentences["cardiomegaly"] or [rng.choice(NORMAL_HEART)]
    opacities = sentences["pulmonary edema"] + sentences["consolidation"] + sentences["nodule"]
    lungs = sentences["hyperinflation"] + (opacities or [rng.choice(CLEAR_LUNGS)])
    devices = [sentence for name in DEVICES for sentence in sentences[name]]
    effusion, pneumothorax = sentences["pleural effusion"], sentences["pneumothorax"]
    if effusion or pneumothorax:
        pleura = (effusion or [rng.choice(NO_EFFUSION)]) + (pneumothorax or [rng.choice(NO_PNEUMOTHORAX)])
    else:
        pleura = [rng.choice(NO_PLEURAL_FINDING)]
    return heart + lungs + pleura + devices


def _impression(truth: Truth, rng: random.Random) -> list[str]:
    phrases: list[str] = []
    for name in IMPRESSION_PHRASES:
        phrases += _sentences(IMPRESSION_PHRASES, truth, name, rng)
    return phrases or [rng.choice(NORMAL_IMPRESSION)]


def _sentences(
    phrasings: dict[str, tuple[str, ...]], truth: Truth, name: str, rng: random.Random
) -> list[str]:
    """One sentence for each finding of this name, the right side first as a reader of films goes."""
    found = sorted((f for f in truth if f.name == name), key=lambda f: f.side != "right")
    filled = [rng.choice(phrasings[name]).format(side=f.side, zone=f.zone, size=f.size) for f in found]
    return [text[0].upper() + text[1:] for text in filled]
