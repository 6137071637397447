"""Damaged and hostile raw data, through whole commands: listed or refused, and nothing outside is touched."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.preparation.toy_source import hashes
from xraygpt.preparation.cli import main
from xraygpt.preparation.synthetic.trees import write_tree

STUDIES = 6


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


def openi(raw: Path, *more: str) -> int:
    given = ["openi", "--reports", str(raw / "NLMCXR_reports.tgz"), "--out", str(raw.parent / "out")]
    return main([*given, *(more or ["--no-images"]), "--processes", "1"])


def mimic(raw: Path) -> int:
    return main(["mimic-cxr", str(raw), "--out", str(raw.parent / "out"), "--processes", "1"])


def folder(raw: Path) -> int:
    return main(["folder", str(raw / "reports.csv"), "--out", str(raw.parent / "out"), "--processes", "1"])


def record(raw: Path) -> list[dict[str, Any]]:
    lines = (raw.parent / "out" / "studies.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def unusable(raw: Path) -> dict[str, str]:
    return {row["unusable"]: row["reason"] for row in record(raw) if "unusable" in row}


def add_members(archive: Path, members: dict[str, bytes | tarfile.TarInfo]) -> None:
    """Append members to a compressed archive."""
    content = io.BytesIO(gzip.decompress(archive.read_bytes()))
    with tarfile.open(fileobj=content, mode="a") as tar:
        for name, data in members.items():
            member = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(data) if isinstance(data, bytes) else 0
            tar.addfile(member, io.BytesIO(data) if isinstance(data, bytes) else None)
    archive.write_bytes(gzip.compress(content.getvalue()))


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def test_hostile_members_of_an_archive(tmp_path: Path, raw: Path) -> None:
    write_tree("openi", raw, STUDIES, image_size=64, distinct_images=2)
    bomb = b'<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><eCitation>&b;</eCitation>'
    hostile: dict[str, bytes | tarfile.TarInfo] = {
        "../evil.xml": b"<eCitation/>",
        "/etc/evil.xml": b"<eCitation/>",
        "ecgen-radiology/link.xml": link("ecgen-radiology/link.xml", "/etc/passwd"),
        "ecgen-radiology/901.xml": b"<eCitation><broken",
        "ecgen-radiology/902.xml": bomb,
    }
    add_members(raw / "NLMCXR_reports.tgz", hostile)
    before = hashes(raw)
    assert openi(raw) == 0
    assert set(unusable(raw)) == set(hostile)
    assert hashes(raw) == before
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "out"}


@pytest.mark.parametrize("kept", [0.3, 0.98])
def test_an_archive_that_is_cut_short(raw: Path, kept: float, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree("openi", raw, STUDIES, image_size=64, distinct_images=2)
    archive = raw / "NLMCXR_reports.tgz"
    archive.write_bytes(archive.read_bytes()[: int(kept * archive.stat().st_size)])
    assert openi(raw) == 2
    assert "download it again" in capsys.readouterr().err
    assert not (raw.parent / "out").exists()


def test_a_bomb(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree("openi", raw, STUDIES, image_size=64, distinct_images=2)
    add_members(raw / "NLMCXR_reports.tgz", {"ecgen-radiology/9.xml": bytes(80 << 20)})
    assert openi(raw) == 2
    assert "NLMCXR_reports.tgz" in capsys.readouterr().err


def test_damaged_images_are_listed(raw: Path) -> None:
    write_tree("openi", raw, STUDIES, image_size=64, distinct_images=2)
    images = raw / "NLMCXR_png.tgz"
    with tarfile.open(images) as tar:
        first = next(member for member in tar if member.name.endswith(".png"))
    # A second member of the same name, damaged: the first counts. And one that is no image at all.
    add_members(images, {first.name: b"x", "../CXR1_evil.png": b"x"})
    assert openi(raw, "--images", str(images)) == 0
    pictures = [picture for row in record(raw) for picture in row.get("pictures", ())]
    assert {picture["outcome"] for picture in pictures if "outcome" in picture} == {"written"}


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("split", b"dicom_id", b"dicom", "did you mean"),
        ("metadata", b"ViewPosition", b"View", "columns are missing: 'ViewPosition'"),
    ],
)
def test_wrong_headers_of_mimic_tables(
    raw: Path, table: str, old: bytes, new: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree("mimic-cxr", raw, STUDIES, image_size=64, distinct_images=2)
    (path,) = raw.glob(f"mimic-cxr-*-{table}.csv.gz")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(old, new, 1)))
    assert mimic(raw) == 2
    error = capsys.readouterr().err
    assert message in error
    assert path.name in error


def test_a_mimic_tree_with_holes_and_links(tmp_path: Path, raw: Path) -> None:
    write_tree("mimic-cxr", raw, 40, image_size=64, distinct_images=2)
    assert mimic(raw) == 0
    kept = [row for row in record(raw) if row["outcome"] == "kept" and len(row["pictures"]) >= 1]
    (tmp_path / "out").rename(tmp_path / "first")
    files = {path.stem: path for path in raw.rglob("*.jpg") if any(path.stem in str(row) for row in kept[:3])}
    absent, outside, damaged = sorted(files)[:3]
    files[absent].unlink()
    secret = tmp_path / "secret.jpg"
    files[outside].rename(secret)
    files[outside].symlink_to(secret)
    files[damaged].write_bytes(files[damaged].read_bytes()[:300])
    before = secret.read_bytes()
    assert mimic(raw) == 0
    reasons = {
        picture["image_id"]: picture.get("reason", "")
        for row in record(raw)
        for picture in row.get("pictures", ())
    }
    assert all(reasons[name] for name in (absent, outside, damaged))
    assert secret.read_bytes() == before
    assert not (tmp_path / "out" / "image" / f"{outside}.jpg").exists()


def test_a_table_with_wrong_paths(tmp_path: Path, raw: Path) -> None:
    write_tree("folder", raw, STUDIES, image_size=64, distinct_images=2)
    table = raw / "reports.csv"
    header, first, second, *rest = table.read_text().splitlines()
    name = first.split(",")[0]
    evil = [
        first.replace(name, "../../evil.jpg", 1),
        second.replace(second.split(",")[0], "/etc/hostname", 1),
    ]
    table.write_text("\n".join([header, *evil, *rest]) + "\n")
    assert folder(raw) == 0
    pictures = [picture for row in record(raw) for picture in row["pictures"]]
    reasons = {picture["reason"] for picture in pictures if picture.get("outcome") == "left out"}
    assert reasons == {"its path is absolute", "its path leads upwards (..)"}
    assert sorted(os.listdir(tmp_path)) == ["out", "raw"]


def test_an_old_link_in_the_place_of_an_image_is_replaced(tmp_path: Path, raw: Path) -> None:
    write_tree("folder", raw, STUDIES, image_size=64, distinct_images=2)
    assert folder(raw) == 0
    out = tmp_path / "out"
    (out / "preparation.json").unlink()
    (out / ".preparing").mkdir()
    image = next((out / "image").iterdir())
    image.unlink()
    precious = tmp_path / "precious.jpg"
    precious.write_bytes(b"precious")
    image.symlink_to(precious)
    assert folder(raw) == 0
    assert precious.read_bytes() == b"precious"
    assert not image.is_symlink()
