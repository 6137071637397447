"""Files of raw data: read out of a `.tgz`, `.tar`, `.zip` or a folder, none of them trusted; their names.

Archives are read from the beginning to the end and never unpacked to the disk. A folder is read in the same
way, so that whoever unpacked the archive gets the same result.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from tarfile import HeaderError, ReadError, TarFile, TarInfo
from typing import NamedTuple

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import HEAD_BYTES, is_missing, mistaken_download
from xraygpt.common.paths import leads_outside
from xraygpt.preparation.study import Unusable

MEBIBYTE = 1 << 20
SHOWN_CHARACTERS = 200
MAX_RATIO = 500
"""Of unpacked to packed bytes. Text reaches about 25 and images 3; deflate ends at 1,030, with zeros."""
FREE_BYTES = 64 << 20
"""So much may be unpacked before the ratio counts."""
DAMAGES = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError)
"""How the standard library answers damage, unknown compression and passwords."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".bmp", ".tif", ".tiff")
MAX_CHARACTERS = 150
_BLOCK_BYTES = 1 << 16
_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_UNSAFE_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]+")

Wanted = Callable[[str], bool]
"""Tells by its name whether a file is to be read."""


class Member(NamedTuple):
    """A regular file of an archive or a folder."""

    name: str
    """Path inside the archive or folder, with ``/``; never absolute, never with ``..``."""
    data: bytes


class Limits(NamedTuple):
    """How much is read before an archive is held to be damaged or hostile."""

    member_bytes: int
    """A wanted file above this size is left out and listed."""
    total_bytes: int
    """An archive that unpacks to more than this is refused."""
    members: int = 1_000_000
    """An archive with more files, wanted or not, is refused."""

    def read(self, name: str, size: int, read: Callable[[], bytes]) -> Member | Unusable:
        """Read a plain file, or say what is wrong with it by its name and declared size."""
        reason = leads_outside(name)
        if reason is None and size > self.member_bytes:
            reason = f"has {size} bytes; no more than {self.member_bytes / MEBIBYTE:g} MiB are expected"
        return Member(printable(name), read()) if reason is None else Unusable(printable(name), reason)


class _Entry(NamedTuple):
    """What an archive says of one of its members that is no folder."""

    name: str
    size: int
    kind: str
    """What it is other than a plain file, such as ``a symbolic link``; "" for a plain file."""
    read: Callable[[], bytes]


def printable(text: str) -> str:
    """Return a name from outside as one line that any terminal and any file can take."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return shown if len(shown) <= SHOWN_CHARACTERS else shown[: SHOWN_CHARACTERS - 3] + "..."


def read_members(path: Path, wanted: Wanted, limits: Limits) -> Iterator[Member | Unusable]:
    """Yield the wanted regular files of an archive (in its order) or a folder (by name).

    Args:
        path: a folder or an archive; told apart by content, not by name.
        wanted: called with the path inside the archive.

    Yields:
        a `Member`, or an `Unusable` for what is no plain file, has a path that leads outside or is too large.

    Raises:
        MissingFileError: nothing is there.
        DataError: not an archive, truncated, damaged, or far larger than expected (a zip bomb).
    """
    if path.is_dir():
        for found in walk_files(path):
            if isinstance(found, Unusable):
                yield found
            elif wanted(found[0]):
                name, file = found
                try:
                    yield limits.read(name, file.stat().st_size, file.read_bytes)
                except OSError as error:
                    yield Unusable(printable(name), f"cannot be read ({error.strerror})")
        return
    if not path.is_file():
        raise MissingFileError(
            f"{path}: no such file; name a folder or an archive (.tgz, .tar.gz, .tar or .zip)"
        )
    with path.open("rb") as archive:
        head = archive.read(HEAD_BYTES)
    if problem := mistaken_download(head, "an archive"):
        raise DataError(f"{path}: {problem}")
    entries = _zip_entries(path, wanted, limits) if head.startswith(b"PK") else _tar_entries(path, limits)
    count = 0
    try:
        for name, size, kind, read in entries:
            if count == limits.members:
                raise DataError(f"{path}: has more than {limits.members:,} members; refused")
            if kind:
                yield Unusable(printable(name), f"is {kind}, not a plain file; left out")
            elif leads_outside(name) or wanted(name):
                yield limits.read(name, size, read)
            count += 1
    except DAMAGES as error:
        raise DataError(
            f"{path}: truncated or damaged after {count} members ({error}); download it again"
        ) from error


def walk_files(folder: Path) -> Iterator[tuple[str, Path] | Unusable]:
    """Yield (path inside the folder, path) of the regular files in a folder and all below it, by name.

    Links are not followed; they and other special files come as `Unusable`.

    Raises:
        DataError: a folder cannot be read.
    """
    for parent, folders, files in os.walk(folder, onerror=_refuse_folder):
        folders.sort()
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in sorted([*files, *links]):
            file = Path(parent, name)
            inside = file.relative_to(folder).as_posix()
            mode = file.lstat().st_mode
            if stat.S_ISREG(mode):
                yield inside, file
            else:
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "a device or pipe"
                yield Unusable(printable(inside), f"is {kind}, not a plain file; left out")


def _refuse_folder(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _bomb_bytes(path: Path) -> int:
    return max(FREE_BYTES, MAX_RATIO * path.stat().st_size)


def _zip_entries(path: Path, wanted: Wanted, limits: Limits) -> Iterator[_Entry]:
    with zipfile.ZipFile(path) as archive:
        # By what the table of contents declares; zipfile reads no more than that.
        sizes = (entry.file_size for entry in archive.infolist() if wanted(entry.filename))
        total = sum(size for size in sizes if size <= limits.member_bytes)
        if total > min(limits.total_bytes, _bomb_bytes(path)):
            raise DataError(f"{path}: unpacks to {total:,} bytes, as a zip bomb does; refused")
        for entry in archive.infolist():
            kind = "a symbolic link" if stat.S_ISLNK(entry.external_attr >> 16) else ""
            if kind or not entry.is_dir():
                yield _Entry(entry.filename, entry.file_size, kind, partial(archive.read, entry))


def _tar_entries(path: Path, limits: Limits) -> Iterator[_Entry]:
    """Yield the members of a tar archive, plain or compressed by gzip, in its own order."""
    with path.open("rb") as raw:
        is_gzip = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = _Unpacked(path, gzip.GzipFile(fileobj=raw) if is_gzip else raw, limits.total_bytes)
        try:
            tar = tarfile.open(  # noqa: SIM115  # closed with `raw`
                fileobj=stream, mode="r|", bufsize=_BLOCK_BYTES, tarinfo=_StrictTarInfo
            )
        except ReadError as error:
            raise DataError(f"{path}: not a tar, tgz or zip archive ({error})") from error
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would remember them all
            if member.size < 0:
                raise ReadError("a member of negative size")
            stream.check(member.offset_data + (0 if member.issparse() else member.size))
            if not member.isdir():
                yield _Entry(member.name, member.size, _kind(member), partial(_content, tar, member))
        while stream.read(_BLOCK_BYTES):  # the checksum stands at the end
            pass


def _kind(member: TarInfo) -> str:
    if member.issparse():
        return "a sparse file"
    if member.isreg():
        return ""
    return "a symbolic link" if member.issym() else "a hard link" if member.islnk() else "a device or pipe"


def _content(tar: TarFile, member: TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""


class _StrictTarInfo(TarInfo):
    """A header that has to be sound: `tarfile` takes a damaged one for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> _StrictTarInfo:
        try:
            return super().fromtarfile(tarfile)
        except HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":
                raise  # the mark of the end
            raise ReadError(str(error)) from error


class _Unpacked(BufferedIOBase):
    """The unpacked bytes of a tar archive, counted; too many are a DataError."""

    def __init__(self, path: Path, stream: BufferedIOBase, total_bytes: int) -> None:
        self.path, self.stream, self.total_bytes = path, stream, total_bytes
        self.bomb_bytes = _bomb_bytes(path)
        self.bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = self.stream.read(size)
        self.bytes += len(data)
        self.check(self.bytes)
        return data

    def check(self, size: int) -> None:
        """Refuse an archive that has, or whose next member says that it has, so many bytes unpacked."""
        if size > self.total_bytes:
            raise DataError(
                f"{self.path}: unpacks to more than {self.total_bytes / (1 << 30):g} GiB, far more than is "
                "expected of it; refused"
            )
        if size > self.bomb_bytes:
            raise DataError(
                f"{self.path}: unpacks to more than {MAX_RATIO} times its size, as a zip bomb does; refused"
            )


def is_safe_id(name: str) -> bool:
    """Tell whether a name can be an image id: letters, digits, ``.``, ``_``, ``-``; no dot or dash first.

    One that stands for a missing value, such as ``NA``, cannot.
    """
    return len(name) <= MAX_CHARACTERS and _SAFE_ID.fullmatch(name) is not None and not is_missing(name)


def is_image(name: str) -> bool:
    """Tell by its ending whether a file is an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def stem(name: str) -> str:
    """Return the last part of a path without the endings of an image, ``a`` for ``x/a.dcm.png``."""
    name = PurePosixPath(name).name
    while is_image(name):
        name = name[: name.rindex(".")]
    return name


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
