"""What is taken out of an archive or a folder, and what is left in it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from xraygpt.common.paths import leads_outside
from xraygpt.preparation.study import Unusable

MEBIBYTE = 1 << 20
SHOWN_CHARACTERS = 200

# zipfile answers damage, unknown compression and passwords by all of these.
ZIP_DAMAGES = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of an archive or a folder."""

    name: str
    """Path inside the archive or folder, with ``/``; never absolute, never with ``..``."""
    data: bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is read before an archive is held to be damaged or hostile."""

    member_bytes: int
    """A wanted file above this size is left out and listed."""
    total_bytes: int
    """An archive that unpacks to more than this is refused."""
    members: int = 1_000_000
    """An archive with more members, wanted or not, is refused."""


Wanted = Callable[[str], bool]
"""Tells by its name whether a file is to be read."""


def printable(text: str) -> str:
    """Return a name from outside as one line that any terminal and any file can take."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return shown if len(shown) <= SHOWN_CHARACTERS else shown[: SHOWN_CHARACTERS - 3] + "..."


def refusal(name: str, size: int, limits: Limits) -> Unusable | None:
    """Return what is wrong with a wanted regular file by its name and declared size, or None."""
    reason = leads_outside(name)
    if reason is None and size > limits.member_bytes:
        reason = f"has {size} bytes; no more than {limits.member_bytes / MEBIBYTE:g} MiB are expected"
    return None if reason is None else Unusable(printable(name), reason)
