"""Small DICOM files with made-up patients, and the radiograph in them."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from xraygpt.datasets.phantom.render import render

SECRETS = ("Quillfeather", "ZX-90817", "19440617", "ACC5551212", "1.2.826.0.1.424242")
"""What the files say about the patient; it must not turn up anywhere."""


def chest(size: int = 96) -> np.ndarray:
    """A synthetic chest radiograph, uint8 (size, size)."""
    return render((), random.Random(0), size)


def dataset(pixels: np.ndarray, *, bits: int | None = None, **elements: Any) -> Dataset:
    """A chest radiograph as an uncompressed data set; `elements` are set, or removed if None."""
    made = Dataset()
    name, patient_id, birth_date, accession, uid = SECRETS
    made.PatientName, made.PatientID, made.PatientBirthDate = f"{name}^Ada", patient_id, birth_date
    made.AccessionNumber, made.StudyInstanceUID, made.PatientComments = accession, uid, name
    made.SOPClassUID, made.SOPInstanceUID = DigitalXRayImageStorageForPresentation, f"{uid}.7"
    made.Modality, made.BodyPartExamined, made.ViewPosition = "DX", "CHEST", "PA"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    made.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = 8 * pixels.itemsize
    made.BitsStored = bits or made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.add_new("PixelData", "OW" if pixels.itemsize > 1 else "OB", pixels.tobytes())
    for keyword, value in elements.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def file_of(made: Dataset, syntax: UID = ExplicitVRLittleEndian, frame: bytes | None = None) -> bytes:
    """The data set as a file; `frame` is the compressed picture of a syntax that needs one."""
    if frame is not None:
        made.PixelData = encapsulate([frame])
        made["PixelData"].is_undefined_length = True
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def dicom(pixels: np.ndarray, *, bits: int | None = None, **elements: Any) -> bytes:
    """An uncompressed file, explicit VR little endian."""
    return file_of(dataset(pixels, bits=bits, **elements))


def lossless_jpeg(pixels: np.ndarray, bits: int) -> bytes:
    """Encode (h, w) as lossless JPEG (ISO 10918-1 process 14), each pixel predicted by its left neighbour.

    All 17 sizes of a difference have codes of five bits.
    """
    height, width = pixels.shape
    predicted = np.empty_like(pixels, dtype=np.int64)
    predicted[:, 1:] = pixels[:, :-1]
    predicted[1:, 0] = pixels[:-1, 0]
    predicted[0, 0] = 1 << (bits - 1)
    stream = ""
    for difference in (pixels.astype(np.int64) - predicted).ravel().tolist():
        size = abs(difference).bit_length()
        below_zero = (1 << size) - 1 if difference < 0 else 0
        stream += f"{size:05b}" + (f"{difference + below_zero:0{size}b}" if size else "")
    stream += "1" * (-len(stream) % 8)
    data = int(stream, 2).to_bytes(len(stream) // 8).replace(b"\xff", b"\xff\0")
    frame = bytes([bits]) + height.to_bytes(2) + width.to_bytes(2) + b"\1\1\x11\0"
    table = b"\0" + bytes([0, 0, 0, 0, 17] + 11 * [0]) + bytes(range(17))
    segments = {b"\xc3": frame, b"\xc4": table, b"\xda": b"\1\1\0\1\0\0"}
    header = b"".join(b"\xff" + mark + (len(s) + 2).to_bytes(2) + s for mark, s in segments.items())
    return b"\xff\xd8" + header + data + b"\xff\xd9"
