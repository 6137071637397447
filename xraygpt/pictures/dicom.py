"""DICOM files to 8-bit grey, as a viewer shows them (package pydicom; the decoders are those of pylibjpeg).

A stored value has at most 16 bits, so all steps from it to grey (PS3.3 C.11: modality LUT, window or VOI LUT,
polarity) are worked out once for every possible value; the picture is then looked up in that table.

Only the elements listed in `TAGS` are parsed, so that nothing about the patient can reach a message, a note
or an output. What pydicom logs or warns of may quote a file's content and is held back for the same reason; a
body part or a description may hold a name by mistake, so that messages repeat only words of the lists below.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from xraygpt.common.errors import DataError, XrayGPTError
from xraygpt.common.image_modes import scale, usual_range
from xraygpt.pictures.grey import MAX_FILE_BYTES, NEEDS_PACKAGES, Picture, check_size, looks_inverted, refuse

Array = np.ndarray

TAGS = (
    "Modality", "BodyPartExamined", "StudyDescription", "SeriesDescription", "ProtocolName", "ViewPosition",
    "PatientPosition", "ViewCodeSequence", "PatientOrientation", "BurnedInAnnotation",
    "PresentationIntentType", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "PresentationLUTShape", "PixelData",
)  # fmt: skip
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")

PREAMBLE = 128
PIXEL_DATA = b"\xe0\x7f\x10\0"
"""The element's tag, little endian."""
DEFLATED = b"1.2.840.10008.1.2.1.99"
DAMAGED = "damaged DICOM file"
TRUNCATED = "pixel data are truncated or damaged"
PIXEL_TYPE = "pixel type is not read"
WRONG_TAG = "tagged MONOCHROME1 but stored with dark lungs: not inverted"
INVERSE_SHAPE = "inverted, as its PresentationLUTShape and its bright lungs ask for"
LIBRARIES = ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "rle")
BEYOND = 1e9
"""Farther out than any window."""

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
AXES = {"H": "vertical", "F": "vertical"} | dict.fromkeys("LRAP", "horizontal")
"""Head, feet, left, right, anterior, posterior."""
DESCRIPTIONS = ("StudyDescription", "SeriesDescription", "ProtocolName")

VIEWS = frozenset({"PA", "AP", "LATERAL", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAO", "RAO", "LPO", "RPO"})
VIEW_MEANINGS = {"POSTEROANTERIOR": "PA", "ANTEROPOSTERIOR": "AP", "LAT": "LATERAL"}
"""What stands in other ways to write a view; letters only."""


def read_dicom(data: bytes, name: str, refuse_burnt_in: bool = False) -> Picture:
    """Decode the content of a file, a chest radiograph.

    Args:
        name: how messages call it.
        refuse_burnt_in: refuse what declares burnt-in annotation, rather than note it.

    Raises:
        RefusedPictureError: the file is damaged, or is no single chest radiograph.
        DataError: the package that decodes its compression is not installed.
    """
    with _quiet():
        try:
            dataset, about_file = _parse(data, name)
            about_content = check_wanted(dataset, name, refuse_burnt_in)
            pixels = _decode(dataset, name)
            invert = _text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
            image, about_pixels = _show(pixels, dataset, invert)
            # Either tag is wrong in some files, and PresentationLUTShape contradicts MONOCHROME2: the pixels
            # decide.
            if (invert or _text(dataset, "PresentationLUTShape") == "INVERSE") and looks_inverted(image):
                image, about_pixels = _show(pixels, dataset, not invert)
                about_pixels += (WRONG_TAG if invert else INVERSE_SHAPE,)
            return Picture(image, view_of(dataset), about_file + about_content + about_pixels)
        except XrayGPTError:
            raise
        # pydicom meets damage with errors of any kind, whose texts may quote the file.
        except Exception:
            raise refuse(name, DAMAGED) from None


def _parse(data: bytes, name: str) -> tuple[FileDataset, tuple[str, ...]]:
    _check_inflated_size(data, name)
    dataset = dcmread(io.BytesIO(data), force=True, specific_tags=list(TAGS))
    if "PixelData" not in dataset and PIXEL_DATA in data:
        raise refuse(name, TRUNCATED)
    if "TransferSyntaxUID" in dataset.file_meta:
        return dataset, ()
    implicit, little = dataset.original_encoding
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset, (f"no file meta information: read as {syntax.name}",)


def _check_inflated_size(data: bytes, name: str) -> None:
    """Refuse a deflated file that would fill the memory; pydicom inflates without a limit."""
    header = data[PREAMBLE + 4 : PREAMBLE + 2048]
    if DEFLATED not in header:
        return
    # The first element is the length of all others in front of the deflated part.
    start = PREAMBLE + 16 + int.from_bytes(header[8:12], "little")
    try:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[start:], MAX_FILE_BYTES + 1)
    except zlib.error:
        raise refuse(name, DAMAGED) from None
    if len(inflated) > MAX_FILE_BYTES:
        raise refuse(name, "the file is too large", f"inflates to more than {MAX_FILE_BYTES // 1024**2} MiB")


def _decode(dataset: FileDataset, name: str) -> Array:
    """Decompress the pixels: (h, w) integers of 8 or 16 bits, or (h, w, 3) uint8."""
    check_size(name, _number(dataset, "Columns"), _number(dataset, "Rows"))
    if _text(dataset, "PhotometricInterpretation") not in (*GREY, *COLOUR):
        raise refuse(name, "photometric interpretation is not read")
    try:
        available = get_decoder(dataset.file_meta.TransferSyntaxUID).is_available
    except NotImplementedError:
        raise refuse(name, "compression is not read") from None
    if not available:
        raise DataError(f"{name}: {NEEDS_PACKAGES}")
    # pydicom keeps the lowest bits, which is right for all but some files of the last century.
    if _number(dataset, "HighBit") + 1 > _number(dataset, "BitsStored"):
        raise refuse(
            name, PIXEL_TYPE, "has its pixels in the upper bits of each value; the lower ones are read"
        )
    try:
        pixels = pixel_array(dataset)
    except Exception:  # the decoders, too, raise anything
        raise refuse(name, TRUNCATED) from None
    grey = pixels.ndim == 2 and pixels.dtype.kind in "iu" and pixels.itemsize <= 2
    if grey or (pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8):
        return pixels
    raise refuse(name, PIXEL_TYPE, "is neither grey of up to 16 bits nor 8-bit colour")


def _show(pixels: Array, dataset: FileDataset, invert: bool) -> tuple[Image.Image, tuple[str, ...]]:
    """Turn decoded pixels into an upright image of mode ``L``, with notes."""
    notes: tuple[str, ...] = ()
    if pixels.ndim == 3:
        shown = np.asarray(Image.fromarray(pixels).convert("L"))
    else:
        shown, notes = _to_display(pixels, dataset, invert)
    shown, about_orientation = turn_upright(shown, dataset)
    return Image.fromarray(np.ascontiguousarray(shown)), notes + about_orientation


def _to_display(stored: Array, dataset: Dataset, invert: bool) -> tuple[Array, tuple[str, ...]]:
    """Turn stored values into 8-bit grey; padding becomes black.

    The first of several windows or VOI LUTs is taken; a VOI LUT goes before a window. Without either, or
    where the window is unusable, 8-bit values are shown as they are, and 16-bit ones are stretched between
    the 0.1th and 99.9th percentile of the pixels that are not padding.

    Args:
        stored: (h, w) integers of 8 or 16 bits, signed or not.
        invert: whether low values are the bright ones (MONOCHROME1).

    Returns:
        uint8 array (h, w), and notes.
    """
    bits = 8 * stored.itemsize
    index = stored.view(f"uint{bits}")  # the bit pattern of a pixel is its place in the table
    values = np.arange(2**bits).astype(stored.dtype).astype(np.int64)  # stored value of each pattern
    padding = _padding(values, dataset)
    rescaled = apply_modality_lut(values, dataset).astype(np.float64)
    table, notes = _window(rescaled, dataset)
    if table is None:
        low, high = rescaled.min(), rescaled.max()
        if bits > 8:
            counts = np.where(padding, 0, np.bincount(index.ravel(), minlength=len(values)))
            order = np.argsort(rescaled, kind="stable")
            low, high = usual_range(rescaled[order], counts[order]) if counts.any() else (0.0, 0.0)
        table = scale(rescaled, low, high)
    if invert:
        table = 1.0 - table
    table[padding] = 0.0
    return np.rint(255 * table).astype(np.uint8)[index], notes


def _padding(values: Array, dataset: Dataset) -> Array:
    """Mark the values that stand for "no picture here" (PS3.3 C.7.5.1.1.2)."""
    first = dataset.get("PixelPaddingValue")
    if not isinstance(first, int):
        return np.zeros(len(values), dtype=bool)
    last = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((first, last if isinstance(last, int) else first))
    return (values >= low) & (values <= high)


def _window(rescaled: Array, dataset: Dataset) -> tuple[Array | None, tuple[str, ...]]:
    """Apply the VOI LUT or window to rescaled values; 0 (dark) to 1. None where there is none."""
    if not dataset.get("VOILUTSequence") and dataset.get("WindowCenter") is None:
        return None, ()
    try:
        with np.errstate(over="ignore"):
            if dataset.get("VOILUTSequence"):
                shown = apply_voi(np.rint(rescaled).astype(np.int64), dataset)
            else:
                # The two values added lie beyond any window, so they come out as black and white.
                shown = apply_windowing(np.append(rescaled, (-BEYOND, BEYOND)), dataset)
        table = scale(shown, shown.min(), shown.max())[: len(rescaled)]
    # pydicom meets a window that is text, has no width, or lacks its other half with errors of any kind.
    except Exception:
        return None, ("its window is unusable, and left out",)
    return (table, ()) if np.ptp(table) > 0 else (None, ("its window shows nothing, and is left out",))


def check_wanted(dataset: Dataset, name: str, refuse_burnt_in: bool) -> tuple[str, ...]:
    """Refuse what is no single chest radiograph.

    Returns:
        Notes on what the tags leave open.

    Raises:
        RefusedPictureError: another modality, another body part, several frames, no pixels.
    """
    notes: list[str] = []
    modality = _text(dataset, "Modality")
    if modality and modality not in RADIOGRAPHY:
        what = modality if modality in OTHER_MODALITIES else f"none of {', '.join(RADIOGRAPHY)}"
        raise refuse(name, f"modality is {what}")
    if not modality:
        notes.append("modality is not given")
    notes += _check_body_part(dataset, name)
    if "PixelData" not in dataset:
        raise refuse(name, "no pixel data")
    if _number(dataset, "NumberOfFrames") > 1:
        raise refuse(name, "several frames")
    if _text(dataset, "BurnedInAnnotation") == "YES":
        if refuse_burnt_in:
            raise refuse(name, "burnt-in annotation")
        notes.append("declares burnt-in annotation")
    if _text(dataset, "PresentationIntentType") == "FOR PROCESSING":
        notes.append("raw image, not processed for viewing")
    return tuple(notes)


def view_of(dataset: Dataset) -> str:
    """Return the view: that of ViewPosition, else that of ViewCodeSequence, else "".

    Some write it into PatientPosition, which is meant for tomography (``HFS``); it comes last.
    """
    codes = dataset.get("ViewCodeSequence")
    coded = _text(codes[0], "CodeMeaning") if codes else ""
    for written in (_text(dataset, "ViewPosition"), coded, _text(dataset, "PatientPosition")):
        letters = re.sub(r"[^A-Z]", "", written)
        if letters in VIEWS:
            return letters
        for words, view in VIEW_MEANINGS.items():
            if words in letters:
                return view
    return ""


def turn_upright(pixels: Array, dataset: Dataset) -> tuple[Array, tuple[str, ...]]:
    """Turn and mirror an image as PatientOrientation (PS3.3 C.7.6.1.1.1) asks for.

    The element names the direction in which the rows and the columns run. A frontal image is shown as if the
    patient faced us: rows run to the patient's left, columns to the feet; a lateral one with the head up.

    Returns:
        The image, (h, w) of `pixels` or (w, h), and notes.
    """
    value = dataset.get("PatientOrientation")
    if not value:
        return pixels, ()
    # Of an oblique direction ("LF") the first letter is the main one.
    directions = [str(part)[:1].upper() for part in value] if isinstance(value, MultiValue) else []
    axes = [AXES.get(direction) for direction in directions]
    notes: list[str] = []
    if axes == ["vertical", "horizontal"]:
        pixels, directions = pixels.T, directions[::-1]
        notes.append("transposed")
    elif axes != ["horizontal", "vertical"]:
        return pixels, ("its orientation is not understood: left as stored",)
    if directions[0] == "R":
        pixels = pixels[:, ::-1]
        notes.append("mirrored left to right")
    if directions[1] == "H":
        pixels = pixels[::-1]
        notes.append("mirrored top to bottom")
    return pixels, (f"turned upright by its tags: {', '.join(notes)}",) if notes else ()


def _text(dataset: Dataset, keyword: str) -> str:
    """Return an element as text in capitals; "" where it is absent or empty."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip().upper()


def _number(dataset: Dataset, keyword: str) -> int:
    """Return an element as a whole number; 0 where it is absent or none."""
    value = dataset.get(keyword)
    return int(value) if isinstance(value, int) else 0


def _check_body_part(dataset: Dataset, name: str) -> list[str]:
    """The body part is the picture's own and decides; the descriptions are the whole study's."""
    part = re.sub(r"[^A-ZÓ]", "", _text(dataset, "BodyPartExamined"))
    described = " ".join(_text(dataset, keyword) for keyword in DESCRIPTIONS)
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what pydicom and the decoders log and warn of."""
    levels = {logger: logger.level for logger in map(logging.getLogger, LIBRARIES)}
    try:
        for logger in levels:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
