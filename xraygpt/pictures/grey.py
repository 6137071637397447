"""What every kind of image file is decoded to, and the error of those that are refused."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from xraygpt.common.code_version import install_hint
from xraygpt.common.errors import DataError

NEEDS_PACKAGES = f"is DICOM, which needs more packages: {install_hint('dicom')}"
MAX_FILE_BYTES = 256 * 1024**2
"""Larger files are refused unread; a radiograph has up to 60 MB, uncompressed."""
MAX_PIXELS = 80_000_000
"""Larger pictures are refused: 8-bit colour of this size takes 320 MB once decoded. A radiograph has up to
20 million pixels."""


class RefusedPictureError(DataError):
    """A file that gives no picture; the message says which, and what is wrong with it.

    `reason` is the same few words for all files with the same fault, to be counted.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message, reason)  # both in `args`: the error travels between processes
        self.reason = reason


@dataclass(frozen=True, slots=True)
class GreyPicture:
    """A decoded picture."""

    image: Image.Image
    """Mode ``L``, upright, at full size."""
    view: str = ""
    """``PA``, ``AP``, ``LATERAL``, ... where the file says so."""
    notes: tuple[str, ...] = ()
    """What a person should know about it."""
    publishable_suffix: str = ""
    """Suffix of the file if its bytes can be passed on as they are: 8 bits, JPEG or PNG, and nothing in it
    but the picture. "" otherwise."""


def refuse(name: str, reason: str, detail: str = "") -> RefusedPictureError:
    """Return the error for the file `name`; `detail` says more than `reason`, where there is more."""
    return RefusedPictureError(f"{name}: {detail or reason}", reason)


def check_size(name: str, width: int, height: int) -> None:
    """Refuse a picture that is empty, or too large to decode.

    Raises:
        RefusedPictureError: it is.
    """
    if width < 1 or height < 1:
        raise refuse(name, "the picture is empty", f"the picture is empty ({width}x{height} pixels)")
    if width * height > MAX_PIXELS:
        limit = f"at most {MAX_PIXELS // 1_000_000} million are read"
        raise refuse(name, "too many pixels", f"has {width}x{height} pixels; {limit}")
