"""Synthetic conversations: patients who ask what a finding is, and questions about reports of phantoms."""

from __future__ import annotations

import json
import random
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from xraygpt.common.tables import SPLITS
from xraygpt.datasets.phantom.report import write_report
from xraygpt.datasets.phantom.truth import FINDING_NAMES, Truth, draw_truth
from xraygpt.preparation.synthetic.phantoms import Phantoms

PLAIN = {
    "cardiomegaly": "The heart is enlarged.",
    "pulmonary edema": "There is fluid in both lungs.",
    "hyperinflation": "Both lungs hold too much air.",
    "pacemaker": "It is a device with leads to the heart.",
    "central line": "It is a line that ends in a vein near the heart.",
    "sternotomy wires": "They hold the chest together after an operation.",
    "pleural effusion": "There is fluid around the {side} lung.",
    "pneumothorax": "There is air around the {side} lung.",
    "consolidation": "There is fluid in a part of the {side} lung.",
    "nodule": "There is a small round opacity in the {side} lung.",
}
"""What a doctor tells a patient of a finding."""
NORMAL = ("My report is normal. What does it mean?", "Nothing abnormal is seen.")
PATIENT_QUESTIONS = ("My report says {phrase}. What does it mean?", "What is {phrase}?")
RADIOLOGY_QUESTION = "Does it show {name}?"
QUESTIONS = 3
"""About a report."""
SPLIT_OF = ("val", "test", *["train"] * 8)
"""Of the studies, in turn."""


def write_dialogues(output: Path, studies: int, phantoms: Phantoms) -> None:
    """Write ``patients_<split>.jsonl`` and ``radiology_<split>.jsonl``, each with a conversation a study."""
    with ExitStack() as stack:
        files = {
            (kind, split): stack.enter_context((output / f"{kind}_{split}.jsonl").open("w", encoding="utf-8"))
            for kind in ("patients", "radiology")
            for split in SPLITS
        }
        for index in range(studies):
            rng = phantoms.rng("dialogue", index)
            truth = draw_truth(phantoms.rng("truth", index))
            report = write_report(truth, phantoms.rng("report", index))
            talks = {"patients": patient_dialogue(truth, rng), "radiology": about(report, truth, rng)}
            for kind, pairs in talks.items():
                said = zip(("user", "assistant") * len(pairs), chain(*pairs), strict=True)
                line = json.dumps({"messages": [{"role": role, "content": text} for role, text in said]})
                files[kind, SPLIT_OF[index % len(SPLIT_OF)]].write(f"{line}\n")


def patient_dialogue(truth: Truth, rng: random.Random) -> list[tuple[str, str]]:
    """Return a question about each finding, in random order, with its answer in plain words."""
    findings = rng.sample(truth, len(truth))
    asked = [rng.choice(PATIENT_QUESTIONS).format(phrase=finding.phrase) for finding in findings]
    told = [PLAIN[finding.name].format(side=finding.side) for finding in findings]
    return list(zip(asked, told, strict=True)) or [NORMAL]


def about(report: str, truth: Truth, rng: random.Random) -> list[tuple[str, str]]:
    """Return questions about a report, half of them about what it shows, with exact answers.

    The first question has the report before it.
    """
    present = sorted({finding.name for finding in truth})
    absent = [name for name in FINDING_NAMES if name not in present]
    names = [rng.choice(present if present and rng.random() < 0.5 else absent) for _ in range(QUESTIONS)]
    pairs = [(RADIOLOGY_QUESTION.format(name=name), _answer(name, truth)) for name in names]
    return [(f"{report} {pairs[0][0]}", pairs[0][1]), *pairs[1:]]


def _answer(name: str, truth: Truth) -> str:
    phrases = [finding.phrase for finding in truth if finding.name == name]
    return f"Yes, {' and '.join(phrases)}." if phrases else f"No {name}."
