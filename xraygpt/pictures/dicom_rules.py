"""What the tags of a DICOM file say: is it a chest radiograph, which view, which way up.

Texts of a file go no further than here: a body part or a description may hold a name by mistake, so that
messages repeat only words that stand in the lists below.
"""

from __future__ import annotations

import re

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from xraygpt.pictures.grey import refuse

RADIOGRAPHY = ("CR", "DX", "RG")
OTHER_MODALITIES = (
    "AS", "BI", "BMD", "CT", "DG", "DOC", "ECG", "ES", "GM", "HD", "IO", "IVUS", "KO", "LS", "MG", "MR", "NM",
    "OCT", "OP", "OT", "PR", "PT", "PX", "REG", "RF", "RTDOSE", "RTIMAGE", "RTPLAN", "RTSTRUCT", "SC", "SEG",
    "SM", "SR", "ST", "TG", "US", "XA", "XC",
)  # fmt: skip
CHEST_WORDS = ("CHEST", "CXR", "THORA", "TORAX", "TÓRAX", "LUNG", "PULMO", "HEART", "MEDIASTIN", "RIB")
OTHER_PARTS = (
    "ABDOMEN", "ANKLE", "ARM", "BREAST", "CALCANEUS", "CLAVICLE", "COCCYX", "CSPINE", "ELBOW", "EXTREMITY",
    "FEMUR", "FIBULA", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "JAW", "KNEE", "LEG",
    "LSPINE", "MANDIBLE", "NECK", "PATELLA", "PELVIS", "RADIUS", "SACRUM", "SCAPULA", "SHOULDER", "SKULL",
    "SPINE", "SSPINE", "TIBIA", "TOE", "TSPINE", "ULNA", "WRIST",
)  # fmt: skip
UNINFORMATIVE_PARTS = frozenset({"", "UNKNOWN", "UNSPECIFIED", "OTHER", "DEFAULT", "NONE", "WHOLEBODY"})
DESCRIPTIONS = ("StudyDescription", "SeriesDescription", "ProtocolName")

VIEWS = frozenset({"PA", "AP", "LATERAL", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAO", "RAO", "LPO", "RPO"})
VIEW_MEANINGS = {"POSTEROANTERIOR": "PA", "ANTEROPOSTERIOR": "AP", "LAT": "LATERAL"}
"""What stands in other ways to write a view; letters only."""


def check_wanted(dataset: Dataset, name: str, refuse_burnt_in: bool) -> tuple[str, ...]:
    """Refuse what is no single chest radiograph.

    Returns:
        Notes on what the tags leave open.

    Raises:
        RefusedPictureError: another modality, another body part, several frames, no pixels.
    """
    notes = [*_check_modality(dataset, name), *_check_body_part(dataset, name)]
    if "PixelData" not in dataset:
        raise refuse(name, "no pixel data")
    if number(dataset, "NumberOfFrames") > 1:
        raise refuse(name, "several frames")
    if text(dataset, "BurnedInAnnotation") == "YES":
        if refuse_burnt_in:
            raise refuse(name, "burnt-in annotation")
        notes.append("declares burnt-in annotation")
    if text(dataset, "PresentationIntentType") == "FOR PROCESSING":
        notes.append("raw image, not processed for viewing")
    return tuple(notes)


def view_of(dataset: Dataset) -> str:
    """Return the view: that of ViewPosition, else that of ViewCodeSequence, else "".

    Some write it into PatientPosition, which is meant for tomography (``HFS``); it comes last.
    """
    codes = dataset.get("ViewCodeSequence")
    coded = text(codes[0], "CodeMeaning") if codes else ""
    for written in (text(dataset, "ViewPosition"), coded, text(dataset, "PatientPosition")):
        letters = re.sub(r"[^A-Z]", "", written)
        if letters in VIEWS:
            return letters
        for words, view in VIEW_MEANINGS.items():
            if words in letters:
                return view
    return ""


def turn_upright(pixels: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, tuple[str, ...]]:
    """Turn and mirror an image as PatientOrientation (PS3.3 C.7.6.1.1.1) asks for.

    The element names the direction in which the rows and the columns run. A frontal image is shown as if the
    patient faced us: rows run to the patient's left, columns to the feet; a lateral one with the head up.

    Args:
        pixels: (h, w).

    Returns:
        The image, (h, w) or (w, h), and notes.
    """
    value = dataset.get("PatientOrientation")
    if not value:
        return pixels, ()
    # Of an oblique direction ("LF") the first letter is the main one.
    directions = [str(part)[:1].upper() for part in value] if isinstance(value, MultiValue) else []
    kinds = [
        "vertical" if d in ("H", "F") else "horizontal" if d in ("L", "R", "A", "P") else ""
        for d in directions
    ]
    notes: list[str] = []
    if kinds == ["vertical", "horizontal"]:
        pixels, directions = pixels.T, directions[::-1]
        notes.append("transposed")
    elif kinds != ["horizontal", "vertical"]:
        return pixels, ("its orientation is not understood: left as stored",)
    if directions[0] == "R":
        pixels = pixels[:, ::-1]
        notes.append("mirrored left to right")
    if directions[1] == "H":
        pixels = pixels[::-1]
        notes.append("mirrored top to bottom")
    return pixels, (f"turned upright by its tags: {', '.join(notes)}",) if notes else ()


def text(dataset: Dataset, keyword: str) -> str:
    """Return an element as text in capitals; "" where it is absent or empty."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip().upper()


def number(dataset: Dataset, keyword: str) -> int:
    """Return an element as a whole number; 0 where it is absent or none."""
    value = dataset.get(keyword)
    return int(value) if isinstance(value, int) else 0


def _check_modality(dataset: Dataset, name: str) -> list[str]:
    modality = text(dataset, "Modality")
    if modality in RADIOGRAPHY:
        return []
    if not modality:
        return ["modality is not given"]
    what = modality if modality in OTHER_MODALITIES else f"none of {', '.join(RADIOGRAPHY)}"
    raise refuse(name, f"modality is {what}")


def _check_body_part(dataset: Dataset, name: str) -> list[str]:
    """The body part is the picture's own and decides; the descriptions are the whole study's."""
    part = re.sub(r"[^A-ZÓ]", "", text(dataset, "BodyPartExamined"))
    described = " ".join(text(dataset, keyword) for keyword in DESCRIPTIONS)
    words = set(re.findall(r"[A-ZÓ]+", described))
    elsewhere = next((other for other in OTHER_PARTS if {other, f"{other}S"} & words), "")
    if any(_is_chest(word) for word in words):
        elsewhere = ""
    if part in UNINFORMATIVE_PARTS:
        if elsewhere:
            raise refuse(name, f"description says {elsewhere}")
        return ["body part is not given"]
    if not _is_chest(part):
        raise refuse(name, f"body part is {part if part in OTHER_PARTS else 'not the chest'}")
    return [f"description says {elsewhere}, body part says chest"] if elsewhere else []


def _is_chest(word: str) -> bool:
    return "SPINE" not in word and any(known in word for known in CHEST_WORDS)
