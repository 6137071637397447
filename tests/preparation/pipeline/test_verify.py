from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.preparation.prepared import (
    CAPTION,
    picture,
    refused,
    study,
    write_annotations,
    write_folder,
    write_record,
    write_sums,
)
from xraygpt.common.errors import MissingFileError
from xraygpt.preparation.pipeline.shards import write_shards
from xraygpt.preparation.pipeline.verify import verify_folder

ROWS = [
    study("a", picture("a_1"), picture("a_2")),
    study("b", split="validate"),
    study("c", split="test"),
    refused("d", "min_findings_words"),
    {"unusable": "7.xml", "reason": "not XML"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "prepared", ROWS)


@pytest.fixture
def sharded(folder: Path) -> Path:
    """The same images in shards, one for each split."""
    write_shards(folder)
    for file in (folder / "image").iterdir():
        file.unlink()
    (folder / "image").rmdir()
    shards = sorted(path.relative_to(folder).as_posix() for path in (folder / "shards").iterdir())
    assert len(shards) == 4
    write_sums(folder, ["filter_cap.json", "studies.jsonl", *shards])
    return folder


def found(folder: Path, **options: Any) -> dict[str, tuple[int, tuple[str, ...]]]:
    problems = verify_folder(folder, **options).problems
    return {what: (count, tuple(problems.first[what])) for what, count in problems.items()}


def annotations_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "filter_cap.json").read_text())["annotations"]
    return rows


def test_a_prepared_folder_is_in_order(folder: Path) -> None:
    result = verify_folder(folder)
    assert result.problems == {}
    assert result.nothing == []
    text = result.text()
    assert "checked: 4 annotations" in text
    assert "checked: 4 files in image/: decoded" in text
    assert "checked: 6 checksums of SHA256SUMS" in text
    assert text.endswith("in order")


def test_shards_are_in_order(sharded: Path) -> None:
    result = verify_folder(sharded)
    assert result.problems == {}
    assert "checked: 4 images in shards/: decoded" in result.text()


def test_more_processes_find_the_same(folder: Path) -> None:
    for number in range(70):
        (folder / "image" / f"extra_{number:02d}.jpg").write_bytes(b"no image")
    result = found(folder, workers=2)
    assert result == found(folder)
    assert result["images that cannot be decoded"][0] == 70


def test_a_folder_that_prepare_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "image" / "x.jpg")
    write_annotations(tmp_path, [{"image_id": "x", "caption": CAPTION}])
    result = verify_folder(tmp_path)
    assert result.problems == {}
    assert "no studies.jsonl: whether a patient is in two splits" in result.nothing
    assert "no SHA256SUMS: whether files have changed" in result.nothing


def test_reports_alone(tmp_path: Path) -> None:
    write_record(tmp_path / "studies.jsonl", [study("a", pictures=[{"image_id": "a_1", "view": "PA"}])])
    row = {"image_id": "a", "caption": CAPTION, "split": "train", "study_id": "a"}
    write_annotations(tmp_path, [row])
    result = verify_folder(tmp_path)
    assert result.problems == {}
    assert "neither image/ nor shards/: reports alone" in result.nothing
    (tmp_path / "studies.jsonl").unlink()
    assert list(found(tmp_path)) == ["neither image/ nor shards/ is there"]


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="missing folder"):
        verify_folder(tmp_path / "none")


def test_an_empty_folder_has_problems(tmp_path: Path) -> None:
    assert set(found(tmp_path)) == {"filter_cap.json cannot be read", "neither image/ nor shards/ is there"}


def test_all_problems_of_the_annotations_are_found_at_once(folder: Path) -> None:
    rows = annotations_of(folder)
    rows += [
        rows[0],
        {"caption": "x"},
        {"image_id": ["h"], "caption": "x"},
        {"image_id": "e", "caption": " "},
    ]
    rows += [{"image_id": "f", "caption": "x", "split": "dev"}, {**rows[1], "image_id": "g", "split": "test"}]
    write_annotations(folder, rows)
    problems = found(folder)
    assert problems["unusable annotations"][0] == 2
    assert "row [5]" in problems["unusable annotations"][1][0]
    assert problems["image ids that are annotated twice"][1][0].startswith("a_1 (")
    assert problems["empty captions"][1][0].startswith("e (")
    assert problems["splits that are none of train, val, test"][1][0].startswith("'dev' (")
    assert problems["studies in more than one split"] == (1, ("a: test, train",))
    assert problems["annotated images that are not in image/"][0] == 3
    assert problems["annotations that studies.jsonl does not know"][0] == 3
    assert problems["files that differ from their checksum"] == (1, (str(folder / "filter_cap.json"),))


def test_images_are_compared_with_the_annotations(folder: Path) -> None:
    (folder / "image" / "a_1.png").rename(folder / "image" / "other.png")
    (folder / "image" / "left.tmp").write_text("x")
    problems = found(folder)
    assert problems["annotated images that are not in image/"][1][0].startswith("a_1 (")
    assert problems["files in image/ that no annotation names"] == (2, ("image/left.tmp", "image/other.png"))
    assert problems["files that SHA256SUMS names and that are absent"] == (1, ("image/a_1.png",))


def test_a_damaged_image_is_found_unless_quick(folder: Path) -> None:
    file = folder / "image" / "b_1.png"
    file.write_bytes(file.read_bytes()[:40])
    (folder / "SHA256SUMS").unlink()
    count, (place,) = found(folder)["images that cannot be decoded"]
    assert count == 1
    assert str(file) in place
    quick = verify_folder(folder, quick=True)
    assert quick.problems == {}
    assert "not decoded, as asked" in quick.text()


def test_a_changed_file_differs_from_its_checksum(folder: Path) -> None:
    Image.new("L", (8, 8), 200).save(folder / "image" / "b_1.png")
    assert found(folder, quick=True) == {
        "files that differ from their checksum": (1, (str(folder / "image" / "b_1.png"),))
    }


def test_checksums_are_read_with_care(folder: Path) -> None:
    digest = 64 * "0"
    lines = f"{digest}  ../outside\n{digest}  /etc/passwd\nno checksum\n{digest} *image/a_1.png\n"
    (folder / "SHA256SUMS").write_text(lines)
    problems = found(folder)
    assert problems["unusable lines of SHA256SUMS"][0] == 3
    assert problems["files that differ from their checksum"] == (1, (str(folder / "image" / "a_1.png"),))
    assert problems["files that SHA256SUMS does not name"][0] == 4


def test_the_record_is_compared_with_the_annotations(folder: Path) -> None:
    rows = annotations_of(folder)
    rows[1]["caption"] = "Another."
    rows[2]["split"] = "train"
    write_annotations(folder, [row for row in rows if row["image_id"] != "c_1"])
    (folder / "SHA256SUMS").unlink()
    problems = found(folder)
    assert problems["kept studies without their annotation"] == (1, ("c_1 (study c)",))
    count, places = problems["annotations that differ from the record"]
    assert count == 2
    assert places[0].startswith("a_2: caption (")
    assert places[1].startswith("b_1: split (")


def test_a_patient_in_two_splits_is_found(tmp_path: Path) -> None:
    rows = [study("a", patient_id="p"), study("b", patient_id="p", split="test")]
    assert found(write_folder(tmp_path / "out", rows)) == {
        "patients in more than one split": (1, ("patient p: study a (train), study b (test)",))
    }


def test_patients_that_are_not_named_cannot_be_checked(tmp_path: Path) -> None:
    result = verify_folder(write_folder(tmp_path / "out", [study("a", patient_id="")]))
    assert result.nothing == ["studies.jsonl names no patients: whether one is in two splits"]


def test_a_damaged_record_is_a_problem(folder: Path) -> None:
    with (folder / "studies.jsonl").open("a") as file:
        file.write('{"study_id": ')
    (folder / "SHA256SUMS").unlink()
    ((what, (_, (place,))),) = found(folder).items()
    assert what == "studies.jsonl cannot be read"
    assert "line 6" in place


def test_an_unfinished_preparation_is_a_problem(folder: Path) -> None:
    (folder / ".preparing").mkdir()
    assert list(found(folder)) == ["an unfinished preparation; run its command again"]


def test_many_problems_are_counted_and_the_first_named(folder: Path) -> None:
    for number in range(12):
        (folder / "image" / f"extra_{number:02d}.txt").write_text("x")
    text = verify_folder(folder).text()
    assert "files in image/ that no annotation names: 12\n  image/extra_00.txt\n" in text
    assert "  image/extra_04.txt\n  ... and 7 more\n" in text
    assert text.endswith("1 kind of problem")


def overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def member_of(folder: Path) -> tuple[Path, str, int]:
    """Return the first shard, and the name and place of its first image."""
    shard = json.loads((folder / "shards" / "index.json").read_text())["shards"][0]
    return folder / "shards" / shard["name"], shard["images"][0][0], shard["images"][0][1]


def damage_image(folder: Path) -> None:
    path, _, offset = member_of(folder)
    overwrite(path, offset, bytes(20))


def damage_header(folder: Path) -> None:
    overwrite(member_of(folder)[0], 0, b"\xff" * 512)


def rename_member(folder: Path) -> None:
    path, image_id, _ = member_of(folder)
    data = path.read_bytes()
    assert data.startswith(image_id.encode())
    number = sum(data[:148]) + 8 * 32 + sum(data[156:512]) + (ord("z") - data[0])
    overwrite(path, 0, b"z")
    overwrite(path, 148, f"{number:06o}\0 ".encode())


def cut(folder: Path) -> None:
    path = member_of(folder)[0]
    path.write_bytes(path.read_bytes()[:-512])


def remove_shard(folder: Path) -> None:
    member_of(folder)[0].unlink()


def remove_index(folder: Path) -> None:
    (folder / "shards" / "index.json").unlink()


def add_tar(folder: Path) -> None:
    (folder / "shards" / "more.tar").write_bytes(b"")


def drop_annotation(folder: Path) -> None:
    write_annotations(folder, annotations_of(folder)[1:])


def add_annotation(folder: Path) -> None:
    write_annotations(folder, [*annotations_of(folder), {"image_id": "new", "caption": "x"}])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (damage_image, "images that cannot be decoded"),
        (damage_image, "shards that differ from the checksum in the index"),
        (damage_header, "shards that are no tars"),
        (rename_member, "images that lie elsewhere in the shard than the index says"),
        (rename_member, "images without annotation in the shard, or the reverse"),
        (cut, "shards that are absent or of another size than the index says"),
        (remove_shard, "shards that are absent or of another size than the index says"),
        (remove_index, "the index of the shards cannot be read"),
        (add_tar, "files in shards/ that the index does not name"),
        (drop_annotation, "images in shards that no annotation names"),
        (add_annotation, "annotated images that are in no shard"),
    ],
)
def test_damage_of_shards_is_found(sharded: Path, damage: Callable[[Path], None], problem: str) -> None:
    damage(sharded)
    assert problem in found(sharded)


def test_a_shard_may_differ_from_the_checksums(sharded: Path) -> None:
    name = member_of(sharded)[0].name
    lines = (sharded / "SHA256SUMS").read_text().splitlines()
    changed = [64 * "0" + line[64:] if line.endswith(name) else line for line in lines]
    (sharded / "SHA256SUMS").write_text("\n".join(changed) + "\n")
    assert found(sharded) == {"shards with another checksum in SHA256SUMS than in the index": (1, (name,))}


def test_neither_verification_nor_summary_needs_torch() -> None:
    code = (
        "import sys, xraygpt.preparation.pipeline.verify, xraygpt.preparation.pipeline.summary\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
