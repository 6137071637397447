"""One image file, ordinary or DICOM, to 8-bit grey."""

from __future__ import annotations

from pathlib import Path

from xraygpt.common.errors import DataError
from xraygpt.pictures.grey import MAX_FILE_BYTES, NEEDS_PACKAGES, GreyPicture, refuse
from xraygpt.pictures.raster import read_raster

DICOM_MARK = slice(128, 132), b"DICM"


def read_file(path: Path, name: str) -> bytes:
    """Return the content of a file that may be an image.

    Raises:
        RefusedPictureError: it is not there, too large or cannot be opened.
    """
    try:
        if not path.is_file():
            raise refuse(name, "no such file")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            limit = f"{MAX_FILE_BYTES // 1024**2} MiB are read"
            raise refuse(name, "the file is too large", f"has {size // 1024**2} MiB; up to {limit}")
        return path.read_bytes()
    except OSError as error:
        raise refuse(name, "cannot be opened", f"cannot be opened ({error.strerror})") from None


def decode_picture(data: bytes, name: str, refuse_burnt_in: bool = False) -> GreyPicture:
    """Decode an image file; its kind is told by its content, not by its suffix.

    Args:
        data: content of the file.
        name: how messages call it.
        refuse_burnt_in: refuse a DICOM file that declares burnt-in annotation, rather than note it.

    Raises:
        RefusedPictureError: the file is empty, cannot be read or is not wanted.
        DataError: it is DICOM, and the packages for that are not installed.
    """
    if not data:
        raise refuse(name, "the file is empty")
    if not _is_dicom(data):
        return read_raster(data, name)
    try:
        from xraygpt.pictures.dicom import read_dicom
    except ImportError:
        raise DataError(f"{name}: {NEEDS_PACKAGES}") from None
    return read_dicom(data, name, refuse_burnt_in)


def has_dicom_mark(path: Path) -> bool:
    """Tell whether a file says at its beginning that it is DICOM, as all but very old ones do."""
    place, mark = DICOM_MARK
    try:
        with path.open("rb") as file:
            return file.read(place.stop)[place] == mark
    except OSError:
        return False


def _is_dicom(data: bytes) -> bool:
    """Tell DICOM by its mark, or by its first element where the mark is absent, as in old files."""
    place, mark = DICOM_MARK
    if data[place] == mark:
        return True
    # Group 2 or 8, then a type of two letters or a short length.
    typed = data[4:6].isalpha() and data[4:6].isupper()
    return data[:2] in (b"\x02\0", b"\x08\0") and (typed or data[6:8] == b"\0\0")
