"""Ordinary image files (JPEG, PNG, TIFF, ...) to 8-bit grey."""

from __future__ import annotations

import io
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

from xraygpt.common.image_modes import to_grey
from xraygpt.pictures.grey import GreyPicture, RefusedPictureError, check_size, refuse
from xraygpt.pictures.polarity import LOOKS_INVERTED, looks_inverted

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG2000")
"""What is read. Pillow knows more, but one of them (EPS) would run another program."""

PICTURE_CHUNKS = frozenset({b"IHDR", b"IDAT", b"IEND", b"gAMA", b"pHYs", b"sRGB", b"cHRM", b"sBIT"})
"""Chunks of a PNG file that say nothing but how the picture looks."""
JFIF_HEADER_SIZE = 14
"""Bytes of JPEG's JFIF segment without a thumbnail."""


def read_raster(data: bytes, name: str) -> GreyPicture:
    """Decode an image file.

    The orientation that EXIF gives is applied.

    Args:
        data: content of the file.
        name: how messages call it.

    Raises:
        RefusedPictureError: it is damaged, too large, has several pages, or is no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd tags; and `check_size` refuses what is too large
            return _decode(data, name)
    except UnidentifiedImageError:
        raise refuse(name, "not a picture", f"is none of DICOM, {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise refuse(name, "too many pixels") from None
    except RefusedPictureError:
        raise
    except Exception as error:  # Pillow meets damage with errors of any kind
        raise refuse(name, "cannot be decoded", f"cannot be decoded ({error})") from None


def _decode(data: bytes, name: str) -> GreyPicture:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_size(name, *image.size)
        pages = getattr(image, "n_frames", 1)
        if pages > 1:
            raise refuse(name, "several pages", f"holds {pages} pictures; files with one are read")
        image.draft("L", None)  # JPEG keeps the luminance apart: the colours need not be decoded
        image.load()
        suffix = _publishable_suffix(image, data)
        ImageOps.exif_transpose(image, in_place=True)
        grey = to_grey(image)
        return GreyPicture(
            grey, notes=(LOOKS_INVERTED,) if looks_inverted(grey) else (), publishable_suffix=suffix
        )


def _publishable_suffix(image: Image.Image, data: bytes) -> str:
    """Return the suffix of a file that holds an 8-bit picture and nothing else; see `GreyPicture`."""
    if image.mode not in ("L", "RGB"):
        return ""
    if image.format == "JPEG" and _is_bare_jpeg(image, data):
        return ".jpg"
    if image.format == "PNG" and _is_bare_png(data):
        return ".png"
    return ""


def _is_bare_jpeg(image: Image.Image, data: bytes) -> bool:
    segments = getattr(image, "applist", [])
    bare = all(
        (marker == "APP0" and content[:5] == b"JFIF\0" and len(content) == JFIF_HEADER_SIZE)
        or (marker == "APP14" and content[:5] == b"Adobe")
        for marker, content in segments
    )
    return bare and data.endswith(b"\xff\xd9")


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
