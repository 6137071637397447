"""One image file, ordinary (JPEG, PNG, TIFF, ...) or DICOM, to what it shows."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.image_modes import to_8_bit
from xraygpt.pictures.grey import (
    MAX_FILE_BYTES,
    NEEDS_PACKAGES,
    Picture,
    RefusedPictureError,
    check_size,
    refuse,
)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
"""Endings of the image files of published data sets, in order of preference."""
OTHER_SUFFIXES = (".dcm", ".dicom", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2")
"""Endings of other files that are read."""
DICOM_MARK = slice(128, 132), b"DICM"
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG2000")
"""What is read. Pillow knows more, but one of them (EPS) would run another program."""
PICTURE_CHUNKS = frozenset({b"IHDR", b"IDAT", b"IEND", b"gAMA", b"pHYs", b"sRGB", b"cHRM", b"sBIT"})
"""Chunks of a PNG file that say nothing but how the picture looks."""
JFIF_HEADER_SIZE = 14
"""Bytes of JPEG's JFIF segment without a thumbnail."""


def read_image(source: Path | bytes, decode_size: int | None = None, name: str = "") -> Image.Image:
    """Return what an image file, or its content, shows: 8 bits, mode ``L`` or ``RGB``, upright.

    Args:
        decode_size: see `decode_picture`.
        name: how messages call it; the file's path by default.

    Raises:
        DataError: the file cannot be read, or is DICOM and no chest radiograph.
    """
    if isinstance(source, Path):
        name = name or str(source)
        source = read_file(source, name)
    return decode_picture(source, name or "the image", decode_size=decode_size).image


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


def decode_picture(
    data: bytes, name: str, refuse_burnt_in: bool = False, decode_size: int | None = None, grey: bool = False
) -> Picture:
    """Decode the content of an image file, whose kind is told by it and not by the suffix.

    Everything that looks at image files sees them through this function, and `to_8_bit` says how modes,
    transparency, EXIF orientation and more than 8 bits are treated.

    Args:
        name: how messages call it.
        refuse_burnt_in: refuse a DICOM file that declares burnt-in annotation, rather than note it.
        decode_size: a JPEG is decoded at a half, quarter or eighth of its size as long as both sides keep
            this many pixels, which is several times faster; None decodes at full size.
        grey: turn colours into their luminance; of a JPEG, nothing else is decoded.

    Raises:
        RefusedPictureError: the file is empty, cannot be read or is not wanted.
        DataError: it is DICOM, and the packages for that are not installed.
    """
    if not data:
        raise refuse(name, "the file is empty")
    if not _is_dicom(data):
        return _decode_raster(data, name, decode_size, grey)
    try:
        from xraygpt.pictures.dicom import read_dicom
    except ImportError:
        raise DataError(f"{name}: {NEEDS_PACKAGES}") from None
    return read_dicom(data, name, refuse_burnt_in)


class PictureFolder:
    """Image id -> picture, from the image files, DICOM included, in a folder and the folders in it.

    A file belongs to an image id that is its name, with or without the ending, alone or with its place in
    the folder.

    Args:
        folder: is searched once.

    Raises:
        MissingFileError, DataError: it is not there; it has no picture.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise MissingFileError(f"{folder}: no such folder (of pictures)")
        self.files: dict[str, Path] = {}
        for file in sorted(folder.rglob("*")):
            if file.is_file() and is_image_file(file):
                place = file.relative_to(folder)
                for name in (place.as_posix(), place.with_suffix("").as_posix(), file.name, file.stem):
                    self.files.setdefault(name, file)
        if not self.files:
            raise DataError(f"{folder}: holds no picture; JPEG, PNG, TIFF, DICOM and the like can be shown")

    def __call__(self, image_id: str) -> Image.Image | None:
        """Return the picture, 8-bit grey or RGB; None where there is none.

        Raises:
            DataError: the file cannot be read.
        """
        file = self.files.get(image_id)
        return None if file is None else read_image(file)


def is_image_file(path: Path) -> bool:
    """Tell an image by its suffix, or DICOM, whose files often have none, by the mark at its beginning."""
    if path.suffix.lower() in IMAGE_SUFFIXES + OTHER_SUFFIXES:
        return True
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


def _decode_raster(data: bytes, name: str, decode_size: int | None, grey: bool) -> Picture:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd tags; and `check_size` refuses what is too large
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                check_size(name, *image.size)
                # What a phone adds to a JPEG (MPO), such as a preview, comes after the picture itself.
                if image.format != "MPO" and (pages := getattr(image, "n_frames", 1)) > 1:
                    raise refuse(name, "several pages", f"holds {pages} pictures; files with one are read")
                image.draft("L" if grey else None, (decode_size, decode_size) if decode_size else None)
                shown = to_8_bit(image)
                suffix = _publishable_suffix(image, data)
        return Picture(shown.convert("L") if grey and shown.mode != "L" else shown, publishable_suffix=suffix)
    except UnidentifiedImageError:
        raise refuse(name, "not a picture", f"is none of DICOM, {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise refuse(name, "too many pixels") from None
    except RefusedPictureError:
        raise
    except Exception as error:  # Pillow meets damage with errors of any kind
        raise refuse(name, "cannot be decoded", f"cannot be decoded ({error})") from None


def _publishable_suffix(image: Image.Image, data: bytes) -> str:
    """Return the suffix of a file that holds an 8-bit picture and nothing else; see `Picture`."""
    if image.mode not in ("L", "RGB"):
        return ""
    if image.format == "JPEG":
        bare = data.endswith(b"\xff\xd9") and all(
            (marker == "APP0" and content[:5] == b"JFIF\0" and len(content) == JFIF_HEADER_SIZE)
            or (marker == "APP14" and content[:5] == b"Adobe")
            for marker, content in getattr(image, "applist", [])
        )
        return ".jpg" if bare else ""
    return ".png" if image.format == "PNG" and _is_bare_png(data) else ""


def _is_bare_png(data: bytes) -> bool:
    position = 8  # behind the signature
    while position + 12 <= len(data):
        length, chunk = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8]
        if chunk not in PICTURE_CHUNKS:
            return False
        if chunk == b"IHDR" and data[position + 16] != 8:  # bits per channel
            return False
        position += 12 + length
    return position == len(data)
