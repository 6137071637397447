"""Image ids: what may become the name of a file."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from xraygpt.common.files import is_missing

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".bmp", ".tif", ".tiff")
MAX_CHARACTERS = 150

_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_UNSAFE_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]+")


def is_safe_id(name: str) -> bool:
    """Tell whether a name can be an image id: letters, digits, ``.``, ``_``, ``-``; no dot or dash first.

    One that stands for a missing value, such as ``NA``, cannot.
    """
    return len(name) <= MAX_CHARACTERS and _SAFE_ID.fullmatch(name) is not None and not is_missing(name)


def stem(name: str) -> str:
    """Return the last part of a path without the endings of an image, ``a`` for ``x/a.dcm.png``."""
    name = PurePosixPath(name).name
    while name.lower().endswith(IMAGE_SUFFIXES):
        name = name[: name.rindex(".")]
    return name


def is_image(name: str) -> bool:
    """Tell by its ending whether a file is an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def image_ids(paths: Iterable[str]) -> dict[str, str]:
    """Return path -> image id, no two alike (nor alike but for capitals, which some disks cannot tell apart).

    An id is the file's stem; where several files have the same one, all folders and the stem joined by
    ``_`` (``p1/s1/view1.jpg`` is ``p1_s1_view1``). Where that has characters that an id may not have, or
    is taken, they become ``_`` and a hash of the path is put after it. Their order is of no matter.
    """
    unique = sorted(set(paths))
    ids: dict[str, str] = {}
    taken: set[str] = set()
    for shorten in (stem, _joined):
        left = [path for path in unique if path not in ids]
        count = Counter(shorten(path).casefold() for path in left)
        for path in left:
            name = shorten(path)
            if is_safe_id(name) and count[name.casefold()] == 1 and name.casefold() not in taken:
                ids[path] = name
                taken.add(name.casefold())
    return {path: ids.get(path) or _hashed(path) for path in unique}


def _joined(path: str) -> str:
    return "_".join([*PurePosixPath(path).parent.parts, stem(path)])


def _hashed(path: str) -> str:
    readable = _UNSAFE_CHARACTERS.sub("_", _joined(path)).strip("_.-")[-100:].lstrip(".-")
    digest = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{readable or 'image'}-{digest}"
