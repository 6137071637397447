from __future__ import annotations

import gzip
import io
import os
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.preparation.sources import files
from xraygpt.preparation.sources.files import (
    Limits,
    Member,
    image_ids,
    is_safe_id,
    printable,
    read_members,
    stem,
)
from xraygpt.preparation.study import Unusable

FILES = {"top/1.xml": b"<one/>", "top/deep/2.xml": b"<two/>" * 900, "top/notes.txt": b"not wanted"}
WANTED = {name: data for name, data in FILES.items() if name.endswith(".xml")}
LIMITS = Limits(member_bytes=100_000, total_bytes=10_000_000)


def is_xml(name: str) -> bool:
    return name.endswith(".xml")


def read(path: Path, limits: Limits = LIMITS) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return what was read and what was refused."""
    entries = list(read_members(path, is_xml, limits))
    members = {entry.name: entry.data for entry in entries if isinstance(entry, Member)}
    return members, {entry.place: entry.reason for entry in entries if isinstance(entry, Unusable)}


def add(tar: tarfile.TarFile, name: str, data: bytes = b"<x/>", **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


def write_tar(path: Path, mode: str = "w:gz", files: dict[str, bytes] = FILES) -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            add(tar, name, data)
    return path


def write_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    return path


def write_folder(path: Path) -> Path:
    for name, data in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize(
    "write",
    [write_tar, lambda path: write_tar(path, "w"), write_zip, write_folder],
    ids=["tgz", "tar", "zip", "folder"],
)
def test_wanted_files_are_read_whatever_they_lie_in(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    before = set(os.listdir(tmp_path))
    path = write(tmp_path / "anything")
    assert read(path) == (WANTED, {})
    assert set(os.listdir(tmp_path)) - before == {"anything"}


def test_hostile_members_of_a_tar_are_left_out_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "t.tgz"
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "folder/", b"", type=tarfile.DIRTYPE)
        add(tar, "../../up.xml")
        add(tar, "a/../../up.txt")
        add(tar, "/etc/absolute.xml")
        add(tar, "C:\\windows.xml")
        add(tar, "soft.xml", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "hard.xml", b"", type=tarfile.LNKTYPE, linkname="good.xml")
        add(tar, "device.xml", b"", type=tarfile.CHRTYPE)
        add(tar, "pipe.xml", b"", type=tarfile.FIFOTYPE)
        add(tar, "large.xml", b"x" * 100_001)
        add(tar, "\x1b[31m\nred.xml")
        add(tar, "good.xml")
    members, refused = read(path)
    assert members == {"good.xml": b"<x/>", "\\x1b[31m\\nred.xml": b"<x/>"}
    reasons = {
        "../../up.xml": "its path leads upwards (..)",
        "a/../../up.txt": "its path leads upwards (..)",
        "/etc/absolute.xml": "its path is absolute",
        "C:\\windows.xml": "its path is absolute",
        "soft.xml": "is a symbolic link, not a plain file; left out",
        "hard.xml": "is a hard link, not a plain file; left out",
        "device.xml": "is a device or pipe, not a plain file; left out",
        "pipe.xml": "is a device or pipe, not a plain file; left out",
        "large.xml": "has 100001 bytes; no more than 0.0953674 MiB are expected",
    }
    assert refused == reasons
    assert os.listdir(tmp_path) == ["t.tgz"]


def test_hostile_members_of_a_zip_are_left_out_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("soft.xml")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../up.xml", b"<x/>")
        archive.writestr("large.xml", b"x" * 100_001)
        archive.writestr("good.xml", b"<x/>")
    members, refused = read(path)
    assert list(members) == ["good.xml"]
    assert list(refused) == ["soft.xml", "../up.xml", "large.xml"]


def test_links_and_pipes_in_a_folder_are_not_followed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in")
    (tmp_path / "secret.xml").write_text("secret")
    (folder / "soft.xml").symlink_to(tmp_path / "secret.xml")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.xml")
    members, refused = read(folder)
    assert members == WANTED
    assert set(refused) == {"soft.xml", "up", "pipe.xml"}


def test_sparse_member_is_left_out(tmp_path: Path) -> None:
    """It declares a size that its archive need not hold."""
    path = tmp_path / "t.tar"
    sparse = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,0"}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "hole.xml", b"", pax_headers={**sparse, "GNU.sparse.size": "99999999999999"})
        add(tar, "good.xml")
    members, refused = read(path)
    assert list(members) == ["good.xml"]
    assert refused == {"hole.xml": "is a sparse file, not a plain file; left out"}


def test_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FREE_BYTES", 1_000_000)
    path = write_tar(tmp_path / "t.tgz", files={"good.xml": b"<x/>", "zeros.bin": bytes(8_000_000)})
    entries = read_members(path, is_xml, LIMITS)
    assert isinstance(next(entries), Member)
    with pytest.raises(
        DataError, match=r"t\.tgz: unpacks to more than 500 times its size, as a zip bomb does"
    ):
        next(entries)


def test_declared_size_is_enough_to_refuse(tmp_path: Path) -> None:
    info = tarfile.TarInfo("zeros.bin")
    info.size = 1 << 40
    path = tmp_path / "t.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(DataError, match=r"unpacks to more than 0\.00931323 GiB, far more than is expected"):
        read(path)


def test_number_of_members_is_bounded(tmp_path: Path) -> None:
    limits = Limits(100_000, 10_000_000, members=2)
    for path in (write_tar(tmp_path / "t.tgz"), write_zip(tmp_path / "t.zip")):
        with pytest.raises(DataError, match=r"has more than 2 members"):
            read(path, limits)


def test_zip_bomb_is_refused_by_its_table_of_contents(tmp_path: Path) -> None:
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(101):
            archive.writestr(f"{number}.xml", bytes(100_000))
    with pytest.raises(DataError, match=r"unpacks to 10,100,000 bytes, as a zip bomb does"):
        read(path)


def noise(count: int) -> dict[str, bytes]:
    return {f"{number}.xml": random.Random(number).randbytes(60_000) for number in range(count)}


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_truncated_archive_says_how_far_it_went(tmp_path: Path, mode: str) -> None:
    path = write_tar(tmp_path / "t.tgz", mode, noise(9))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    entries = read_members(path, is_xml, LIMITS)
    with pytest.raises(
        DataError, match=r"t\.tgz: truncated or damaged after [1-8] members .*download it again"
    ):
        list(entries)


def test_plain_tar_cut_between_two_members_is_noticed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", "w", {f"{number}.xml": b"x" * 512 for number in range(4)})
    path.write_bytes(path.read_bytes()[:2048])
    with pytest.raises(DataError, match=r"damaged after 2 members"):
        read(path)


def test_broken_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", "w", {f"{number}.xml": b"x" * 512 for number in range(4)})
    data = bytearray(path.read_bytes())
    data[2048 + 10] ^= 255
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged after 2 members \(bad checksum\)"):
        read(path)


def test_wrong_byte_is_noticed_by_the_checksum_at_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", "w", noise(2))
    packed = bytearray(gzip.compress(path.read_bytes(), compresslevel=0))
    packed[5000] ^= 255
    path.write_bytes(packed)
    with pytest.raises(DataError, match=r"damaged after \d members \(CRC"):
        read(path)


def test_negative_sizes_are_damage(tmp_path: Path) -> None:
    """They would send the reader backwards."""
    path = tmp_path / "t.tar"
    for size in ("-512", "-1024"):
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            add(tar, "back.xml", b"", pax_headers={"size": size})
            add(tar, "good.xml")
        with pytest.raises(
            DataError, match=r"t\.tar: (truncated or damaged after|not a tar, tgz or zip archive)"
        ):
            read(path)


def test_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "in")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"deep: cannot be read \(Permission denied\)"):
        read(folder)


def test_damaged_zip(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "t.zip")
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(DataError, match=r"truncated or damaged after 0 members"):
        read(path)
    path.write_bytes(whole[:42] + b"\xff" + whole[43:])
    with pytest.raises(DataError, match=r"truncated or damaged after 0 members"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html>\n<html>not found</html>", "a web page, not an archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a Git-LFS pointer, not an archive"),
        (b"just text" * 300, "not a tar, tgz or zip archive"),
        (gzip.compress(b"just text" * 300, mtime=0), "not a tar, tgz or zip archive"),
        (gzip.compress(b"", mtime=0), "not a tar, tgz or zip archive"),
    ],
    ids=["empty", "web page", "Git-LFS", "text", "text in gzip", "nothing in gzip"],
)
def test_what_is_no_archive(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.tgz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "t.tgz")


def test_absent_archive(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere: no such file; name a folder or an archive"):
        read(tmp_path / "nowhere")


def test_printable() -> None:
    assert printable("a b\n\x1b\udce4") == "a b\\n\\x1b\\udce4"
    assert len(printable("x" * 999)) == 200


@pytest.mark.parametrize("name", ["a", "CXR1_1_IM-0001-3001", "02aa804e-bde0afdd", "a.b", "_x"])
def test_safe_ids(name: str) -> None:
    assert is_safe_id(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "-rf", "a/b", "a b", "ü", "a\n", "x" * 151, "NA"])
def test_unsafe_ids(name: str) -> None:
    assert not is_safe_id(name)


def test_stem_has_no_image_ending() -> None:
    assert [stem(name) for name in ("x/a.png", "a.dcm.PNG", "a.b", "a")] == ["a", "a", "a.b", "a"]


def test_ids_are_stems_as_long_as_these_differ() -> None:
    assert image_ids(["p1/a.png", "p2/b.jpg", "c"]) == {"p1/a.png": "a", "p2/b.jpg": "b", "c": "c"}


def test_equal_stems_get_their_folders() -> None:
    paths = ["p1/s1/view1.jpg", "p2/s1/view1.jpg", "p2/s1/VIEW1.dcm", "p3/other.jpg"]
    ids = image_ids(paths)
    assert ids["p1/s1/view1.jpg"] == "p1_s1_view1"
    assert ids["p3/other.jpg"] == "other"
    assert len({name.casefold() for name in ids.values()}) == 4
    assert ids == image_ids(reversed(paths))


def test_what_no_name_can_hold_gets_a_hash() -> None:
    paths = ["röntgen 1.png", "röntgen  1.png", "x_y.png", "x/y.png", "z/y.png", "/y.png", "../y.png", ".png"]
    ids = image_ids(paths)
    assert len(set(ids.values())) == len(paths)
    assert all(is_safe_id(name) for name in ids.values())
    assert ids["röntgen 1.png"].startswith("r_ntgen_1-")
    assert ids["x_y.png"] == "x_y"
    assert image_ids([f"{'long/' * 60}a b.png"])
