"""Films as DICOM files that say of themselves that they are synthetic."""

from __future__ import annotations

import io

import numpy as np

from xraygpt.common.errors import MissingFileError
from xraygpt.common.paths import install_hint

BITS = 12
UID_PREFIX = "2.25"
"""Of identifiers that are numbers drawn at random, by DICOM PS3.5, B.2."""


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
