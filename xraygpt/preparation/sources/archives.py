"""Files out of a `.tgz`, `.tar`, `.zip` or a folder: one after another, in memory, none of them trusted.

Archives are read from the beginning to the end and never unpacked to the disk. A folder is read in the same
way, so that whoever unpacked the archive gets the same result. `tarfile` takes a broken header in the middle
of an archive for the archive's end; here it is an error, so that half an archive is never taken for a whole
one.
"""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from tarfile import HeaderError, ReadError, TarError, TarFile, TarInfo
from typing import BinaryIO

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import HEAD_BYTES, mistaken_download
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
MAX_RATIO = 500
"""Of unpacked to packed bytes. Text reaches about 25 and images 3; deflate ends at 1,030, with zeros."""
FREE_BYTES = 64 << 20
"""So much may be unpacked before the ratio counts."""
_BLOCK_BYTES = 1 << 16

_DAMAGES = (TarError, zlib.error, EOFError, OSError, ValueError)
KINDS = "a folder or an archive (.tgz, .tar.gz, .tar or .zip)"
_ZIP_MAGIC = b"PK"


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


def _refusal(name: str, size: int, limits: Limits) -> Unusable | None:
    """Return what is wrong with a wanted regular file by its name and declared size, or None."""
    reason = leads_outside(name)
    if reason is None and size > limits.member_bytes:
        reason = f"has {size} bytes; no more than {limits.member_bytes / MEBIBYTE:g} MiB are expected"
    return None if reason is None else Unusable(printable(name), reason)


def read_members(path: Path, wanted: Wanted, limits: Limits) -> Iterator[Member | Unusable]:
    """Yield the wanted regular files of an archive (in its order) or a folder (by name).

    Args:
        path: `KINDS`; told apart by content, not by name.
        wanted: called with the path inside the archive.

    Yields:
        a `Member`, or an `Unusable` for what is no plain file, has a path that leads outside or is too large.

    Raises:
        MissingFileError: nothing is there.
        DataError: not an archive, truncated, damaged, or far larger than expected (a zip bomb).
    """
    if path.is_dir():
        return _folder_members(path, wanted, limits)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; name {KINDS}")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    problem = mistaken_download(head, "an archive")
    if problem:
        raise DataError(f"{path}: {problem}")
    if head.startswith(_ZIP_MAGIC):
        return _zip_members(path, wanted, limits)
    return _tar_members(path, wanted, limits)


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


def _folder_members(folder: Path, wanted: Wanted, limits: Limits) -> Iterator[Member | Unusable]:
    for entry in walk_files(folder):
        if isinstance(entry, Unusable):
            yield entry
            continue
        name, file = entry
        if not wanted(name):
            continue
        try:
            problem = _refusal(name, file.stat().st_size, limits)
            yield problem or Member(printable(name), file.read_bytes())
        except OSError as error:
            yield Unusable(printable(name), f"cannot be read ({error.strerror})")


def _zip_members(path: Path, wanted: Wanted, limits: Limits) -> Iterator[Member | Unusable]:
    count = 0
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_zip(path, entries, wanted, limits)
            for entry in entries:
                if stat.S_ISLNK(entry.external_attr >> 16):
                    yield Unusable(
                        printable(entry.filename), "is a symbolic link, not a plain file; left out"
                    )
                elif not entry.is_dir() and (leads_outside(entry.filename) or wanted(entry.filename)):
                    problem = _refusal(entry.filename, entry.file_size, limits)
                    yield problem or Member(printable(entry.filename), archive.read(entry))
                count += 1
    except ZIP_DAMAGES as error:
        raise DataError(
            f"{path}: truncated or damaged after {count} members ({error}); download it again"
        ) from error


def _check_zip(path: Path, entries: list[zipfile.ZipInfo], wanted: Wanted, limits: Limits) -> None:
    """Refuse an archive by what its table of contents declares; `zipfile` reads no more than that."""
    if len(entries) > limits.members:
        raise DataError(f"{path}: has more than {limits.members:,} members; refused")
    chosen = [entry for entry in entries if wanted(entry.filename) and entry.file_size <= limits.member_bytes]
    total = sum(entry.file_size for entry in chosen)
    if total > limits.total_bytes or total > max(FREE_BYTES, MAX_RATIO * path.stat().st_size):
        raise DataError(f"{path}: unpacks to {total:,} bytes, as a zip bomb does; refused")


def _tar_members(path: Path, wanted: Wanted, limits: Limits) -> Iterator[Member | Unusable]:
    """Yield the wanted regular files of a tar archive, plain or compressed by gzip, in its own order.

    Links, devices, sparse files and paths that lead outside come as `Unusable`.

    Raises:
        DataError: truncated, damaged or not a tar archive, or it unpacks to more than `limits` allow.
    """
    count = 0
    try:
        with path.open("rb") as raw:
            stream = _Guard(path, raw, limits.total_bytes)
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK_BYTES, tarinfo=_StrictTarInfo) as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # it would remember them all
                    count += 1
                    if count > limits.members:
                        raise DataError(f"{path}: has more than {limits.members:,} members; refused")
                    stream.expect(member)
                    yield from _taken(tar, member, wanted, limits)
            stream.drain()  # the checksum stands at the end
    except _DAMAGES as error:
        if count == 0 and isinstance(error, ReadError):
            raise DataError(f"{path}: not a tar, tgz or zip archive ({error})") from error
        raise DataError(
            f"{path}: truncated or damaged after {count} members ({error}); download it again"
        ) from error


def _taken(tar: TarFile, member: TarInfo, wanted: Wanted, limits: Limits) -> Iterator[Member | Unusable]:
    """Yield the member, or why it is left out; nothing for folders and for what is not wanted."""
    if member.isdir():
        return
    if not member.isreg() or member.issparse():
        yield Unusable(printable(member.name), f"is {_kind(member)}, not a plain file; left out")
    elif leads_outside(member.name) or wanted(member.name):
        problem = _refusal(member.name, member.size, limits)
        file = None if problem else tar.extractfile(member)
        yield problem or Member(printable(member.name), file.read() if file else b"")


def _kind(member: TarInfo) -> str:
    if member.issym():
        return "a symbolic link"
    if member.islnk():
        return "a hard link"
    return "a sparse file" if member.issparse() else "a device or pipe"


class _StrictTarInfo(TarInfo):
    """A header that has to be sound: a damaged one is an error, not the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> _StrictTarInfo:
        try:
            return super().fromtarfile(tarfile)
        except HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":
                raise  # the mark of the end
            raise ReadError(str(error)) from error


class _Guard(BufferedIOBase):
    """The unpacked bytes of an archive, counted."""

    def __init__(self, path: Path, raw: BinaryIO, total_bytes: int) -> None:
        self.path = path
        self.raw = raw
        self.total_bytes = total_bytes
        self.bytes = 0
        is_gzip = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        self.stream: BufferedIOBase | BinaryIO = gzip.GzipFile(fileobj=raw) if is_gzip else raw

    def read(self, size: int | None = None, /) -> bytes:
        data = self.stream.read(-1 if size is None else size)
        self.bytes += len(data)
        self._check(self.bytes)
        if self.bytes > FREE_BYTES and self.bytes > MAX_RATIO * self.raw.tell():
            raise DataError(
                f"{self.path}: unpacks to more than {MAX_RATIO} times its size, as a zip bomb does; refused"
            )
        return data

    def expect(self, member: TarInfo) -> None:
        """Refuse an archive before its too large member is gone through."""
        if member.size < 0:
            raise ReadError("a member of negative size")
        self._check(member.offset_data + (0 if member.issparse() else member.size))

    def drain(self) -> None:
        while self.read(_BLOCK_BYTES):
            pass

    def _check(self, size: int) -> None:
        if size > self.total_bytes:
            raise DataError(
                f"{self.path}: unpacks to more than {self.total_bytes / (1 << 30):g} GiB, far more than is "
                "expected of it; refused"
            )
