"""One image file, ordinary or DICOM, to the file that a prepared data set holds."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from xraygpt.pictures.grey import LOOKS_INVERTED, Picture, RefusedPictureError, looks_inverted
from xraygpt.pictures.reading import decode_picture, read_file

__all__ = ["ConvertedPicture", "PictureConfig", "RefusedPictureError", "convert_picture"]


@dataclass(frozen=True, slots=True)
class PictureConfig:
    """How images are written."""

    longest_side: int = 512
    """Larger images are shrunk until their longest side has this many pixels; smaller ones stay."""
    quality: int = 90
    """Quality of the JPEG files, 1-95."""
    keep_size: bool = False
    """Keep the full size. An 8-bit JPEG or PNG with nothing in it but the picture is copied byte by byte,
    anything else becomes an 8-bit PNG."""
    refuse_burnt_in: bool = False
    """Refuse DICOM files that declare burnt-in annotation (which may be a name), rather than note it."""

    def __post_init__(self) -> None:
        if self.longest_side < 16:
            raise ValueError(f"longest_side must be at least 16 pixels, not {self.longest_side}")
        if not 1 <= self.quality <= 95:
            raise ValueError(f"quality must be 1 to 95, not {self.quality}")


@dataclass(frozen=True, slots=True)
class ConvertedPicture:
    """An encoded picture and what the record says about it."""

    data: bytes
    """Content of the file: JPEG or PNG, 8 bits, without any metadata."""
    suffix: str
    """``.jpg`` or ``.png``."""
    width: int
    height: int
    original_width: int
    """Upright, before it was shrunk."""
    original_height: int
    pixels: str
    """Hash of the decoded picture, 8-bit grey, upright, at its original size: equal pictures have equal ones
    whatever file they came in."""
    view: str = ""
    """``PA``, ``AP``, ``LATERAL``, ... from DICOM's tags; "" elsewhere."""
    notes: tuple[str, ...] = ()


def convert_picture(source: Path | bytes, name: str, config: PictureConfig) -> ConvertedPicture:
    """Decode an image file, or its content, to 8-bit grey, shrink it and encode it anew.

    The kind of file is told by its content, not by its suffix. Colours become grey, transparent parts black,
    more than 8 bits are stretched to 8. The result depends on the file and `config` alone. A JPEG that is
    small enough already and holds nothing but the picture is passed on byte by byte: a second compression
    would only lose.

    Args:
        name: how messages call it.

    Raises:
        RefusedPictureError: the file cannot be read or is not wanted.
        DataError: it is DICOM, and the packages for that are not installed.
    """
    data = source if isinstance(source, bytes) else read_file(source, name)
    picture = decode_picture(data, name, config.refuse_burnt_in, grey=True)
    about_pixels = (LOOKS_INVERTED,) if looks_inverted(picture.image) else ()
    original_size = f"{picture.image.width}x{picture.image.height}:".encode()
    image = picture.image if config.keep_size else shrink(picture.image, config.longest_side)
    content, suffix = _encode(data, picture, image, config)
    return ConvertedPicture(
        data=content,
        suffix=suffix,
        width=image.width,
        height=image.height,
        original_width=picture.image.width,
        original_height=picture.image.height,
        pixels=hashlib.sha256(original_size + picture.image.tobytes()).hexdigest()[:32],
        view=picture.view,
        notes=picture.notes + about_pixels,
    )


def _encode(data: bytes, picture: Picture, image: Image.Image, config: PictureConfig) -> tuple[bytes, str]:
    """Return the content of the file to write, and its suffix."""
    passed_on = (".jpg", ".png") if config.keep_size else (".jpg",)
    if image is picture.image and picture.publishable_suffix in passed_on:
        return data, picture.publishable_suffix
    # A new image carries nothing of the old one's `info` (EXIF, colour profile, comments) into the file.
    bare = Image.frombytes("L", image.size, image.tobytes())
    buffer = io.BytesIO()
    bare.save(buffer, "PNG" if config.keep_size else "JPEG", quality=config.quality)
    return buffer.getvalue(), ".png" if config.keep_size else ".jpg"


def shrink(image: Image.Image, longest_side: int) -> Image.Image:
    """Return `image` with its longest side brought down to `longest_side` pixels; a smaller one as it is.

    The filter is nearly the mean of the area below each new pixel. Pillow's BOX counts an old pixel wholly or
    not at all, which drops and doubles lines when the size changes little.
    """
    if max(image.size) <= longest_side:
        return image
    ratio = max(image.size) / longest_side
    width, height = (max(1, round(side / ratio)) for side in image.size)
    return image.resize((width, height), Image.Resampling.HAMMING)
