"""A phantom's report in the form of MIMIC-CXR: layout, and the variety that a preparation has to stand.

All sentences were written for this purpose.
"""

from __future__ import annotations

import random
import textwrap

from xraygpt.preparation.synthetic.phantoms import PhantomReport

LINE_LENGTH = 79
TITLE = " " * 33 + "FINAL REPORT"
ADDENDUM_TITLE = " " * 33 + "FINAL ADDENDUM"
ADDENDUM_END = " " + "_" * 78

KINDS = {
    "usual": 0.78,
    "conclusion": 0.03,
    "described study": 0.03,
    "no findings": 0.08,
    "no impression": 0.02,
    "addendum": 0.03,
    "no headers": 0.02,
    "one header": 0.01,
}
"""Kind of report -> its share."""
PRIOR_RATE = 0.5
"""Of the studies of a patient who has earlier ones, how many mention them in the findings."""
VIEW_RATE = 0.2
MARK_RATE = 0.15
SHORT_FINDINGS_RATE = 0.02
SHORT_IMPRESSION_RATE = 0.03

EXAMINATIONS = {"PA": "CHEST (PA AND LAT)", "AP": "CHEST (PORTABLE AP)", "": "CHEST"}
DESCRIPTIONS = {"PA": "CHEST, TWO VIEWS", "AP": "PORTABLE CHEST", "": "CHEST"}
"""Headers of findings that describe the study."""
INDICATIONS = (
    "___ year old synthetic patient with cough and fever.  // pneumonia?",
    "Synthetic patient, ___, with shortness of breath.  // please assess for fluid",
    "History: synthetic ___ with chest pain  // cardiopulmonary cause?",
    "Phantom ___, before an operation.",
    "Synthetic patient after placement of a line.  // position of the tip?",
)
TECHNIQUES = {
    "PA": "Chest PA and lateral of a phantom.",
    "AP": "Portable upright AP radiograph of a phantom.",
    "": "Single radiograph of a phantom.",
}
NO_COMPARISON = ("None.", "None available.", "No previous film at hand.")
COMPARISONS = ("Chest radiograph of ___.", "___ and ___.", "Portable film of ___ at ___.")
PRIOR_SENTENCES = (
    "Comparison is made with the film of ___.",
    "As compared with the previous examination of ___, there is no relevant change.",
    "There has been no significant change since ___.",
    "The appearance is similar to that on the prior radiograph from ___.",
)
VIEW_SENTENCES = {
    "PA": ("PA and lateral views of the chest were obtained.", "Frontal and lateral views of the chest."),
    "AP": ("A single portable AP view of the chest was obtained.", "Single AP upright view of the chest."),
    "": ("A single view of the chest was obtained.",),
}
MARK_SENTENCES = (
    "These findings were told to Dr. ___ by telephone at ___ on ___.",
    "Dr. ___ has read the film as well.",
    "A wet reading was given to ___ at ___.",
)
SHORT_FINDINGS = ("See below.", "As stated under impression.")
SHORT_IMPRESSIONS = ("Unchanged.", "Above.")
ADDENDA = (
    "The film was read a second time by Dr. ___; the report below stands.",
    "The request was corrected on ___. There is no change to the reading.",
)

_wrapper = textwrap.TextWrapper(
    LINE_LENGTH, initial_indent=" ", subsequent_indent=" ", break_long_words=False, break_on_hyphens=False
)


def write_mimic_report(report: PhantomReport, view: str, has_prior: bool, rng: random.Random) -> str:
    """Write a report as MIMIC-CXR has them.

    Args:
        report: what there is to say.
        view: ``PA``, ``AP`` or "" for an unknown one.
        has_prior: the patient has been examined before.
        rng: draws the kind of report and what is said besides.

    Returns:
        Lines of up to 79 characters, each after one blank.
    """
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    findings = _findings(report, view, has_prior, rng)
    impression = _impression(report, rng)
    before = [
        ("EXAMINATION", EXAMINATIONS[view]),
        ("INDICATION", rng.choice(INDICATIONS)),
        ("TECHNIQUE", TECHNIQUES[view]),
        ("COMPARISON", rng.choice(COMPARISONS if has_prior else NO_COMPARISON)),
    ]
    lines = [TITLE]
    match kind:
        case "no headers":
            lines += [*_paragraph(EXAMINATIONS[view].capitalize()), *_paragraph(findings)]
            lines += _paragraph(impression)
        case "one header":
            lines += [*_section("REASON FOR EXAM", before[1][1]), *_paragraph(findings)]
            lines += _paragraph(impression)
        case "described study":
            lines += [*_section(*before[1]), *_section(DESCRIPTIONS[view], findings)]
            lines += _section("IMPRESSION", impression)
        case _:
            for header, text in before:
                lines += _section(header, text)
            if kind != "no findings":
                lines += _block("FINDINGS", findings)
            if kind != "no impression":
                lines += _block("CONCLUSION" if kind == "conclusion" else "IMPRESSION", impression)
    if kind == "addendum":
        lines = [ADDENDUM_TITLE, *_section("ADDENDUM", rng.choice(ADDENDA)), ADDENDUM_END, *lines]
    return "\n".join(lines) + "\n"


def _findings(report: PhantomReport, view: str, has_prior: bool, rng: random.Random) -> str:
    if rng.random() < SHORT_FINDINGS_RATE:
        return rng.choice(SHORT_FINDINGS)
    sentences = [report.findings]
    if has_prior and rng.random() < PRIOR_RATE:
        sentences.insert(rng.randrange(2), rng.choice(PRIOR_SENTENCES))
    if rng.random() < VIEW_RATE:
        sentences.insert(0, rng.choice(VIEW_SENTENCES[view]))
    if rng.random() < MARK_RATE:
        sentences.append(rng.choice(MARK_SENTENCES))
    return "  ".join(sentences)


def _impression(report: PhantomReport, rng: random.Random) -> str:
    if rng.random() < SHORT_IMPRESSION_RATE:
        return rng.choice(SHORT_IMPRESSIONS)
    return report.impression


def _section(header: str, text: str) -> list[str]:
    """The text beside its header, and an empty line, which has a blank too."""
    return _paragraph(f"{header}:  {text}")


def _block(header: str, text: str) -> list[str]:
    """The text below its header."""
    return [f" {header}: ", " ", *_paragraph(text)]


def _paragraph(text: str) -> list[str]:
    return [*_wrapper.wrap(text), " "]
