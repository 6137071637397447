"""A synthetic tree of the exact shape of MIMIC-CXR and MIMIC-CXR-JPG.

Reports have its layout, and the variety that a preparation has to stand; all sentences were written for this
purpose. DICOM files say of themselves that they are synthetic.
"""

from __future__ import annotations

import csv
import io
import random
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from xraygpt.common.errors import MissingFileError
from xraygpt.common.paths import install_hint
from xraygpt.datasets.phantom.truth import Truth
from xraygpt.evaluation.labeller import CLASSES
from xraygpt.preparation.synthetic.phantoms import PhantomReport, Phantoms, encode, packed

VERSION = "2.0.0"
SPLIT_SHARES = {"validate": 0.0076, "test": 0.0045}
"""Of the patients, as published; each gets one at least where there are three patients or more."""
MORE_STUDIES_SCALE = 3.0
"""Of the exponential draw, rounded down, of a patient's studies after the first: 3.5 in all, as published."""
MOST_STUDIES = 40
VIEW_SETS = {
    ("PA", "LATERAL"): 0.40,
    ("PA", "LL"): 0.05,
    ("PA",): 0.04,
    ("AP",): 0.44,
    ("AP", "AP"): 0.05,
    ("",): 0.01,
    ("LATERAL",): 0.01,
}
"""Views of a study -> share of the studies."""
INVERTED_RATE = 0.1
"""Of the DICOM files, how many are MONOCHROME1."""
LATERAL_VIEWS = {"LATERAL": "lateral", "LL": "left lateral"}
VIEW_NAMES = {"PA": "postero-anterior", "AP": "antero-posterior", "": "", **LATERAL_VIEWS}

LABELS = tuple(sorted(CLASSES))  # the order of the published table
TABLES = {
    "split": ("dicom_id", "study_id", "subject_id", "split"),
    "metadata": (
        *("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition"),
        *("Rows", "Columns", "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning"),
        *("ViewCodeSequence_CodeMeaning", "PatientOrientationCodeSequence_CodeMeaning"),
    ),
    "chexpert": ("subject_id", "study_id", *LABELS),
}
"""Kind of table -> its columns."""
FINDING_LABELS = {
    "cardiomegaly": "Cardiomegaly",
    "pulmonary edema": "Edema",
    "consolidation": "Consolidation",
    "nodule": "Lung Lesion",
    "pleural effusion": "Pleural Effusion",
    "pneumothorax": "Pneumothorax",
    "pacemaker": "Support Devices",
    "central line": "Support Devices",
}
"""Name of a phantom's finding -> CheXpert class; the others have none."""
ALWAYS_STATED = ("Cardiomegaly", "Pleural Effusion", "Pneumothorax")
"""Classes that a phantom's report denies where it does not affirm them."""
LINE_LENGTH = 79
TITLE = " " * 33 + "FINAL REPORT"
ADDENDUM = (" " * 33 + "FINAL ADDENDUM", "ADDENDUM:  {addendum}", " " + "_" * 78)
BEFORE = (
    *("EXAMINATION:  {examination}", "INDICATION:  {indication}"),
    *("TECHNIQUE:  {technique}", "COMPARISON:  {comparison}"),
)
FINDINGS = ("FINDINGS: ", "{findings}")
IMPRESSION = ("IMPRESSION: ", "{impression}")
FORMS = {
    (TITLE, *BEFORE, *FINDINGS, *IMPRESSION): 0.78,
    (TITLE, *BEFORE, *FINDINGS, "CONCLUSION: ", "{impression}"): 0.03,
    (TITLE, "INDICATION:  {indication}", "{described}:  {findings}", "IMPRESSION:  {impression}"): 0.03,
    (TITLE, *BEFORE, *IMPRESSION): 0.08,
    (TITLE, *BEFORE, *FINDINGS): 0.02,
    (*ADDENDUM, TITLE, *BEFORE, *FINDINGS, *IMPRESSION): 0.03,
    (TITLE, "{headline}", "{findings}", "{impression}"): 0.02,
    (TITLE, "REASON FOR EXAM:  {indication}", "{findings}", "{impression}"): 0.01,
}
"""Paragraphs of a report -> share of the reports. One that begins with a blank is a single line as it is, and
one that ends with a blank the header of the next."""
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
BITS = 12
UID_PREFIX = "2.25"
"""Of identifiers that are numbers drawn at random, by DICOM PS3.5, B.2."""


def write_mimic_tree(output: Path, studies: int, phantoms: Phantoms, *, dicom: bool) -> None:
    """Write ``files/`` with images and reports, and the tables of splits, metadata and labels.

    Args:
        output: an empty folder.
        studies: number of studies, about 3.5 for each patient.
        phantoms: what they show.
        dicom: write DICOM files in place of JPEG.

    Raises:
        MissingFileError: DICOM files are asked for, and pydicom is not installed.
    """
    with ExitStack() as stack:
        write_split, write_metadata, write_labels = (
            stack.enter_context(_table(output / f"mimic-cxr-{VERSION}-{kind}.csv.gz", columns))
            for kind, columns in TABLES.items()
        )
        examinations = _draw_examinations(studies, phantoms.rng("patients", 0))
        bar = tqdm(examinations, "synthetic studies", studies, mininterval=1)
        for index, (subject, study, split, has_prior) in enumerate(bar):
            rng = phantoms.rng("study", index)
            report = phantoms.report(index)
            views = rng.choices(list(VIEW_SETS), list(VIEW_SETS.values()))[0]
            main_view = views[0] if views[0] in EXAMINATIONS else ""
            moment = datetime(2110, 1, 1) + timedelta(seconds=rng.randrange(90 * 365 * 86400))
            folder = output / f"files/p{subject // 1_000_000}/p{subject}/s{study}"
            folder.mkdir(parents=True)
            text = write_mimic_report(report, main_view, has_prior, rng)
            folder.with_suffix(".txt").write_text(text, encoding="ascii")
            for number, view in enumerate(views):
                digits = f"{rng.getrandbits(160):040x}"
                dicom_id = "-".join(digits[start : start + 8] for start in range(0, 40, 8))
                film = phantoms.film(index, number, lateral=view in LATERAL_VIEWS)
                if dicom:
                    content = dicom_bytes(film, view, study, int(digits, 16), rng.random() < INVERTED_RATE)
                else:
                    content = encode(film, "JPEG")
                (folder / f"{dicom_id}.{'dcm' if dicom else 'jpg'}").write_bytes(content)
                write_split((dicom_id, study, subject, split))
                examination, posture = EXAMINATIONS[main_view], "Recumbent" if view == "AP" else "Erect"
                acquired = (*film.shape, f"{moment:%Y%m%d}", f"{moment:%H%M%S}.000")
                named = (dicom_id, subject, study, examination, view)
                write_metadata((*named, *acquired, examination, VIEW_NAMES[view], posture))
            write_labels((subject, study, *_label_cells(report.truth)))


@contextmanager
def _table(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Iterable[Any]], Any]]:
    """Open a compressed table and give what writes a row."""
    with packed(path) as file, TextIOWrapper(file, encoding="ascii", newline="") as text:
        write = csv.writer(text, lineterminator="\n").writerow
        write(columns)
        yield write


def _draw_examinations(studies: int, rng: random.Random) -> Iterator[tuple[int, int, str, bool]]:
    """Yield (patient, study, split, whether the patient has had an earlier one), by the patients' numbers."""
    counts: list[int] = []
    left = studies
    while left:
        counts.append(min(1 + int(rng.expovariate(1 / MORE_STUDIES_SCALE)), MOST_STUDIES, left))
        left -= counts[-1]
    subjects = sorted(rng.sample(range(10_000_000, 20_000_000), len(counts)))
    numbers = iter(rng.sample(range(50_000_000, 60_000_000), studies))
    splits: list[str] = []
    for split, share in SPLIT_SHARES.items():
        splits += [split] * max(round(share * len(counts)), int(len(counts) >= 3))
    splits += ["train"] * (len(counts) - len(splits))
    rng.shuffle(splits)
    for subject, count, split in zip(subjects, counts, splits, strict=True):
        for number, study in enumerate(sorted(islice(numbers, count))):
            yield subject, study, split, number > 0


def _label_cells(truth: Truth) -> list[str]:
    """Return the cells of a study in the order of `LABELS`: 1.0, 0.0 or nothing."""
    found = {FINDING_LABELS[finding.name] for finding in truth if finding.name in FINDING_LABELS}
    cells = dict.fromkeys(ALWAYS_STATED, "0.0") | dict.fromkeys(found, "1.0")
    if not found - {"Support Devices"}:
        cells["No Finding"] = "1.0"
    return [cells.get(label, "") for label in LABELS]


def write_mimic_report(report: PhantomReport, view: str, has_prior: bool, rng: random.Random) -> str:
    """Write a report as MIMIC-CXR has them.

    Args:
        report: what there is to say.
        view: ``PA``, ``AP`` or "" for an unknown one.
        has_prior: the patient has been examined before.
        rng: draws the form of the report and what is said besides.

    Returns:
        Lines of up to 79 characters, each after one blank.
    """
    form = rng.choices(list(FORMS), list(FORMS.values()))[0]
    said = report.impression
    texts = {
        "findings": _findings(report, view, has_prior, rng),
        "impression": rng.choice(SHORT_IMPRESSIONS) if rng.random() < SHORT_IMPRESSION_RATE else said,
        "indication": rng.choice(INDICATIONS),
        "comparison": rng.choice(COMPARISONS if has_prior else NO_COMPARISON),
        "addendum": rng.choice(ADDENDA) if form[0] != TITLE else "",
        "examination": EXAMINATIONS[view],
        "headline": EXAMINATIONS[view].capitalize(),
        "described": DESCRIPTIONS[view],
        "technique": TECHNIQUES[view],
    }
    lines: list[str] = []
    for paragraph in form:
        text = paragraph.format(**texts)
        if text.startswith(" "):
            lines.append(text)
        else:  # the line below it is empty but for a blank
            lines += [*([f" {text}"] if text.endswith(" ") else _wrapper.wrap(text)), " "]
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


def dicom_bytes(image: np.ndarray, view: str, study: int, number: int, inverted: bool) -> bytes:
    """Return a film as a DICOM file of 12 bits, uncompressed.

    Args:
        image: uint8 (H, W), bright where the body is dense.
        view: value of View Position.
        study: the identifiers of study and series come from it.
        number: the identifier of the image comes from it; below 2**160.
        inverted: store it as MONOCHROME1.

    Raises:
        MissingFileError: pydicom is not installed.
    """
    try:
        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
    except ImportError as error:
        raise MissingFileError(f"DICOM files need pydicom: {install_hint('dicom')}") from error
    stored = image.astype(np.uint16) << (BITS - 8)
    if inverted:
        stored = (1 << BITS) - 1 - stored
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = UID(f"{UID_PREFIX}.{number >> 32}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{UID_PREFIX}.{study}", f"{UID_PREFIX}.{study}0"
    data.PatientName, data.PatientID = "SYNTHETIC^PHANTOM", "PHANTOM"
    data.PatientIdentityRemoved = "YES"
    data.DeidentificationMethod = "drawn by a program; there is no patient"
    data.Manufacturer = "xraygpt phantom"
    data.Modality, data.BodyPartExamined, data.ViewPosition = "DX", "CHEST", view
    data.Rows, data.Columns = image.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    data.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, BITS, BITS - 1
    data.WindowCenter, data.WindowWidth = 1 << (BITS - 1), 1 << BITS
    data.BurnedInAnnotation = "NO"
    data.PixelData = stored.astype("<u2").tobytes()
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()
