"""DICOM files to 8-bit grey (package pydicom; the decoders are those of pylibjpeg).

Only the elements listed in `TAGS` are parsed, so that nothing about the patient can reach a message, a note
or an output. What pydicom logs or warns of may quote a file's content and is held back for the same reason.
"""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from xraygpt.common.errors import DataError, XrayGPTError
from xraygpt.pictures.dicom_display import to_display
from xraygpt.pictures.dicom_rules import check_wanted, number, text, view_of
from xraygpt.pictures.dicom_upright import turn_upright
from xraygpt.pictures.grey import MAX_FILE_BYTES, NEEDS_PACKAGES, GreyPicture, check_size, refuse
from xraygpt.pictures.polarity import LOOKS_INVERTED, looks_inverted

Array = np.ndarray

TAGS = (
    "Modality", "BodyPartExamined", "StudyDescription", "SeriesDescription", "ProtocolName", "ViewPosition",
    "PatientPosition",
    "ViewCodeSequence", "PatientOrientation", "BurnedInAnnotation", "PresentationIntentType",
    "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows",
    "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter",
    "WindowWidth", "VOILUTFunction", "VOILUTSequence", "PixelData",
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
LIBRARIES = ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "rle")


def read_dicom(data: bytes, name: str, refuse_burnt_in: bool = False) -> GreyPicture:
    """Decode a chest radiograph.

    Args:
        data: content of the file.
        name: how messages call it.
        refuse_burnt_in: refuse what declares burnt-in annotation, rather than note it.

    Raises:
        RefusedPictureError: the file is damaged, or is no single chest radiograph.
        DataError: the package that decodes its compression is not installed.
    """
    with _quiet():
        try:
            return _read(data, name, refuse_burnt_in)
        except XrayGPTError:
            raise
        # pydicom meets damage with errors of any kind, whose texts may quote the file.
        except Exception:
            raise refuse(name, DAMAGED) from None


def _read(data: bytes, name: str, refuse_burnt_in: bool) -> GreyPicture:
    dataset, about_file = _parse(data, name)
    about_content = check_wanted(dataset, name, refuse_burnt_in)
    pixels = _decode(dataset, name)
    invert = text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    image, about_pixels = _show(pixels, dataset, invert)
    if looks_inverted(image):
        if invert:
            image, about_pixels = _show(pixels, dataset, invert=False)
        about_pixels += (WRONG_TAG if invert else LOOKS_INVERTED,)
    return GreyPicture(image, view=view_of(dataset), notes=about_file + about_content + about_pixels)


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
    check_size(name, number(dataset, "Columns"), number(dataset, "Rows"))
    if text(dataset, "PhotometricInterpretation") not in (*GREY, *COLOUR):
        raise refuse(name, "photometric interpretation is not read")
    try:
        available = get_decoder(dataset.file_meta.TransferSyntaxUID).is_available
    except NotImplementedError:
        raise refuse(name, "compression is not read") from None
    if not available:
        raise DataError(f"{name}: {NEEDS_PACKAGES}")
    # pydicom keeps the lowest bits, which is right for all but some files of the last century.
    if number(dataset, "HighBit") + 1 > number(dataset, "BitsStored"):
        raise refuse(
            name, PIXEL_TYPE, "has its pixels in the upper bits of each value; the lower ones are read"
        )
    try:
        pixels = pixel_array(dataset)
    except Exception:  # the decoders, too, raise anything
        raise refuse(name, TRUNCATED) from None
    if pixels.ndim == 2 and pixels.dtype.kind in "iu" and pixels.itemsize <= 2:
        return pixels
    if pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8:
        return pixels
    raise refuse(name, PIXEL_TYPE, "is neither grey of up to 16 bits nor 8-bit colour")


def _show(pixels: Array, dataset: FileDataset, invert: bool) -> tuple[Image.Image, tuple[str, ...]]:
    """Turn decoded pixels into an upright image of mode ``L``, with notes."""
    notes: tuple[str, ...] = ()
    if pixels.ndim == 3:
        shown = np.asarray(Image.fromarray(pixels).convert("L"))
    else:
        shown, notes = to_display(pixels, dataset, invert)
    shown, about_orientation = turn_upright(shown, dataset)
    return Image.fromarray(np.ascontiguousarray(shown)), notes + about_orientation


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what pydicom and the decoders log and warn of."""
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
