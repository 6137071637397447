"""A synthetic tree of the exact shape of MIMIC-CXR and MIMIC-CXR-JPG.

Reports have its layout, and the variety that a preparation has to stand; all sentences were written for this
purpose. DICOM files say of themselves that they are synthetic.
"""

from __future__ import annotations

import csv
import gzip
import io
import random
import textwrap
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from xraygpt.common.errors import MissingFileError
from xraygpt.common.paths import install_hint
from xraygpt.datasets.phantom.truth import Truth
from xraygpt.evaluation.labeller import CLASSES
from xraygpt.preparation.sources.mimic_cxr import REPORTS_ZIP
from xraygpt.preparation.synthetic.phantoms import SEED, PhantomReport, Phantoms, encode, new_tree

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
LATERAL_VIEWS = ("LATERAL", "LL")
VIEW_NAMES = {
    "PA": "postero-anterior",
    "AP": "antero-posterior",
    "LATERAL": "lateral",
    "LL": "left lateral",
    "": "",
}

SPLIT_COLUMNS = ("dicom_id", "study_id", "subject_id", "split")
METADATA_COLUMNS = (
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)
LABELS = tuple(sorted(CLASSES))  # the order of the published table
LABEL_COLUMNS = ("subject_id", "study_id", *LABELS)
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
BITS = 12
UID_PREFIX = "2.25"
"""Of identifiers that are numbers drawn at random, by DICOM PS3.5, B.2."""


@dataclass(frozen=True, slots=True)
class _Patient:
    subject: int
    studies: Sequence[int]
    split: str


def write_mimic_tree(
    output: Path,
    studies: int,
    *,
    seed: int = SEED,
    image_size: int = 512,
    images: Literal["jpg", "dicom"] = "jpg",
    reports: Literal["files", "zip"] = "files",
    distinct_images: int | None = None,
) -> None:
    """Write a synthetic MIMIC-CXR: ``files/``, reports, and the tables of splits, metadata and labels.

    The same arguments give the same files, byte for byte (DICOM files: as long as pydicom stays the same).

    Args:
        output: a new or empty folder.
        studies: number of studies, about 3.5 for each patient.
        seed: another seed gives other studies.
        image_size: side of an image in pixels, 64 or more.
        images: form of the image files; ``dicom`` needs pydicom.
        reports: beside the images, or all in ``mimic-cxr-reports.zip``.
        distinct_images: see `Phantoms`; that many are rendered, which takes most of the time.

    Raises:
        DataError: the folder is not empty, or a number is too small.
        MissingFileError: pydicom is not installed.
    """
    phantoms = Phantoms(seed, image_size, distinct_images)
    new_tree(output, "MIMIC-CXR", studies)
    with ExitStack() as stack:
        write_split = stack.enter_context(_table(output, "split", SPLIT_COLUMNS))
        write_metadata = stack.enter_context(_table(output, "metadata", METADATA_COLUMNS))
        write_labels = stack.enter_context(_table(output, "chexpert", LABEL_COLUMNS))
        archive = None
        if reports == "zip":
            archive = stack.enter_context(zipfile.ZipFile(output / REPORTS_ZIP, "w"))
        patients = _draw_patients(studies, phantoms.rng("patients", 0))
        examinations = ((patient, number) for patient in patients for number in range(len(patient.studies)))
        bar = tqdm(examinations, "synthetic studies", studies, mininterval=1)
        for index, (patient, number) in enumerate(bar):
            study = _StudyWriter(phantoms, index, patient.subject, patient.studies[number])
            study.write_report(output, archive, has_prior=number > 0)
            for dicom_id, view in study.write_images(output, images):
                write_split((dicom_id, study.study, patient.subject, patient.split))
                write_metadata(study.metadata(dicom_id, view))
            write_labels((patient.subject, study.study, *_label_cells(study.report.truth)))


class _StudyWriter:
    """Draws one study and writes its files."""

    def __init__(self, phantoms: Phantoms, index: int, subject: int, study: int) -> None:
        self.phantoms = phantoms
        self.index = index
        self.subject = subject
        self.study = study
        self.rng = phantoms.rng("study", index)
        self.report = phantoms.report(index)
        self.views = self.rng.choices(list(VIEW_SETS), list(VIEW_SETS.values()))[0]
        self.main_view = self.views[0] if self.views[0] in ("PA", "AP") else ""
        self.moment = datetime(2110, 1, 1) + timedelta(seconds=self.rng.randrange(90 * 365 * 86400))
        self.patient_folder = f"files/p{subject // 1_000_000}/p{subject}"

    def write_report(self, output: Path, archive: zipfile.ZipFile | None, has_prior: bool) -> None:
        text = write_mimic_report(self.report, self.main_view, has_prior, self.rng)
        name = f"{self.patient_folder}/s{self.study}.txt"
        if archive:
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
        else:
            (output / self.patient_folder).mkdir(parents=True, exist_ok=True)
            (output / name).write_text(text, encoding="ascii")

    def write_images(self, output: Path, form: Literal["jpg", "dicom"]) -> Iterator[tuple[str, str]]:
        """Write the images; yield (dicom_id, view) of each."""
        folder = output / self.patient_folder / f"s{self.study}"
        folder.mkdir(parents=True)
        for number, view in enumerate(self.views):
            digits = f"{self.rng.getrandbits(160):040x}"
            dicom_id = "-".join(digits[start : start + 8] for start in range(0, 40, 8))
            film = self.phantoms.film(self.index, number, lateral=view in LATERAL_VIEWS)
            if form == "jpg":
                (folder / f"{dicom_id}.jpg").write_bytes(encode(film, "JPEG"))
            else:
                inverted = self.rng.random() < INVERTED_RATE
                content = dicom_bytes(film, view, self.study, int(digits, 16), inverted)
                (folder / f"{dicom_id}.dcm").write_bytes(content)
            yield dicom_id, view

    def metadata(self, dicom_id: str, view: str) -> tuple[Any, ...]:
        examination = EXAMINATIONS[self.main_view]
        size = self.phantoms.size
        columns = size // 2 if view in LATERAL_VIEWS else size
        date, time = f"{self.moment:%Y%m%d}", f"{self.moment:%H%M%S}.000"
        return (
            *(dicom_id, self.subject, self.study, examination, view, size, columns, date, time),
            *(examination, VIEW_NAMES[view], "Recumbent" if view == "AP" else "Erect"),
        )


@contextmanager
def _table(folder: Path, kind: str, columns: Sequence[str]) -> Iterator[Callable[[Iterable[Any]], Any]]:
    """Open a compressed table and give what writes a row; the file has no time in it."""
    with (
        (folder / f"mimic-cxr-{VERSION}-{kind}.csv.gz").open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        TextIOWrapper(packed, encoding="ascii", newline="") as text,
    ):
        write = csv.writer(text, lineterminator="\n").writerow
        write(columns)
        yield write


def _draw_patients(studies: int, rng: random.Random) -> list[_Patient]:
    """Share out the studies among patients, and the patients among splits; by the patients' numbers."""
    counts: list[int] = []
    left = studies
    while left:
        more = int(rng.expovariate(1 / MORE_STUDIES_SCALE))
        counts.append(min(1 + more, MOST_STUDIES, left))
        left -= counts[-1]
    subjects = sorted(rng.sample(range(10_000_000, 20_000_000), len(counts)))
    numbers = iter(rng.sample(range(50_000_000, 60_000_000), studies))
    splits = _draw_splits(len(counts), rng)
    return [
        _Patient(subject, sorted(islice(numbers, count)), split)
        for subject, count, split in zip(subjects, counts, splits, strict=True)
    ]


def _draw_splits(patients: int, rng: random.Random) -> list[str]:
    splits: list[str] = []
    for split, share in SPLIT_SHARES.items():
        splits += [split] * max(round(share * patients), int(patients >= 3))
    splits += ["train"] * (patients - len(splits))
    rng.shuffle(splits)
    return splits


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


def dicom_bytes(image: np.ndarray, view: str, study: int, number: int, inverted: bool) -> bytes:
    """Return a film as a DICOM file of 12 bits, uncompressed.

    Args:
        image: uint8 (H, W), bright where the body is dense.
        view: value of View Position.
        study: the identifiers of study and series come from it.
        number: below 2**160; the identifier of the image comes from it.
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
    data.StudyInstanceUID = f"{UID_PREFIX}.{study}"
    data.SeriesInstanceUID = f"{UID_PREFIX}.{study}0"
    data.PatientName = "SYNTHETIC^PHANTOM"
    data.PatientID = "PHANTOM"
    data.PatientIdentityRemoved = "YES"
    data.DeidentificationMethod = "drawn by a program; there is no patient"
    data.Manufacturer = "xraygpt phantom"
    data.Modality = "DX"
    data.BodyPartExamined = "CHEST"
    data.ViewPosition = view
    data.Rows, data.Columns = image.shape
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    data.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, BITS, BITS - 1
    data.PixelRepresentation = 0
    data.WindowCenter, data.WindowWidth = 1 << (BITS - 1), 1 << BITS
    data.BurnedInAnnotation = "NO"
    data.PixelData = stored.astype("<u2").tobytes()
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()
