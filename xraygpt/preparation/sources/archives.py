"""Files out of a `.tgz`, `.tar`, `.zip` or a folder: one after another, in memory, none of them trusted.

Archives are read from the beginning to the end and never unpacked to the disk. A folder is read in the same
way, so that whoever unpacked the archive gets the same result.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import HEAD_BYTES, mistaken_download
from xraygpt.common.paths import leads_outside
from xraygpt.preparation.sources.members import ZIP_DAMAGES, Limits, Member, Wanted, printable, refusal
from xraygpt.preparation.sources.tar_stream import FREE_BYTES, MAX_RATIO, read_tar
from xraygpt.preparation.study import Unusable

KINDS = "a folder or an archive (.tgz, .tar.gz, .tar or .zip)"
_ZIP_MAGIC = b"PK"


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
    return read_tar(path, wanted, limits)


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
            problem = refusal(name, file.stat().st_size, limits)
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
                    problem = refusal(entry.filename, entry.file_size, limits)
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
