"""Reading a tar archive from its beginning to its end, without trusting it.

Nothing is unpacked to the disk. `tarfile` takes a broken header in the middle of an archive for the
archive's end; here it is an error, so that half an archive is never taken for a whole one.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from tarfile import HeaderError, ReadError, TarError, TarFile, TarInfo
from typing import BinaryIO

from xraygpt.common.errors import DataError
from xraygpt.common.paths import leads_outside
from xraygpt.preparation.sources.members import Limits, Member, Wanted, printable, refusal
from xraygpt.preparation.study import Unusable

MAX_RATIO = 500
"""Of unpacked to packed bytes. Text reaches about 25 and images 3; deflate ends at 1,030, with zeros."""
FREE_BYTES = 64 << 20
"""So much may be unpacked before the ratio counts."""
_BLOCK_BYTES = 1 << 16

_DAMAGES = (TarError, zlib.error, EOFError, OSError, ValueError)


def read_tar(path: Path, wanted: Wanted, limits: Limits) -> Iterator[Member | Unusable]:
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
        problem = refusal(member.name, member.size, limits)
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
