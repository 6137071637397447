from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.datasets.builders import load_dataset
from xraygpt.preparation.cli import main
from xraygpt.preparation.pairs import COLUMNS, caption_of, convert_pairs

SECTIONS = {"findings": "The XXXX heart\nis normal.", "impression": "1. No  acute process."}


def row(image: str, **values: str) -> dict[str, str]:
    common = {"study_id": image, "view": "Frontal", "text_type": "report", "split": "train"}
    return {"image": f"img/{image}", **common, **SECTIONS, **values}


def write_manifest(folder: Path, *rows: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> Path:
    """Write the table, with columns in another order and one more, and an image for each row."""
    (folder / "img").mkdir(parents=True, exist_ok=True)
    for index, entry in enumerate(rows):
        grey = np.full((20 + index, 30), 40 + index, np.uint8)
        Image.fromarray(grey).save(folder / entry["image"])
    path = folder / "manifest.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["licence", *reversed(columns)], extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_converted_folder_is_read_by_the_openi_builder(tmp_path: Path) -> None:
    manifest = write_manifest(
        tmp_path / "in",
        row("a.jpg"),
        row("b.png", split="validate", view="Lateral"),
        row("c.jpg", text_type="clinical_note"),
        row("d.jpeg", split="test", findings=""),
    )
    result = convert_pairs(manifest, tmp_path / "out")
    assert [entry["image_id"] for entry in result.annotations] == ["a", "b", "d"]
    datasets = load_dataset("openi", vis_path=tmp_path / "out")
    assert {split: len(data) for split, data in datasets.items()} == {"train": 1, "val": 1, "test": 1}
    assert (
        datasets["train"][0]["caption"]
        == "Findings: The XXXX heart is normal. Impression: 1. No acute process."
    )
    assert datasets["test"][0]["caption"] == "Impression: 1. No acute process."
    for name in ("a.jpg", "b.png", "d.jpeg"):
        assert (tmp_path / "out/image" / name).read_bytes() == (tmp_path / "in/img" / name).read_bytes()


def test_format_that_the_data_set_does_not_read_becomes_png(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, row("a.bmp"))
    convert_pairs(manifest, tmp_path / "out")
    assert np.array_equal(Image.open(tmp_path / "out/image/a.png"), Image.open(tmp_path / "img/a.bmp"))


def test_view_can_be_chosen(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, row("a.jpg"), row("b.jpg", view="Lateral"))
    result = convert_pairs(manifest, tmp_path / "out", view="frontal")
    assert [entry["image_id"] for entry in result.annotations] == ["a"]
    assert "1 rows left out: view is 'Lateral'" in result.summary()
    with pytest.raises(DataError, match=r"views: Frontal, Lateral"):
        convert_pairs(manifest, tmp_path / "other", view="PA")
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_used_is_named_with_the_reason(tmp_path: Path) -> None:
    silent = row("b.jpg", findings=" ", impression="")
    manifest = write_manifest(tmp_path, row("a.jpg"), silent, row("c.jpg"), row("d.jpg"), row("a.png"))
    (tmp_path / "img/c.jpg").unlink()
    (tmp_path / "img/d.jpg").write_bytes(b"no image")
    result = convert_pairs(manifest, tmp_path / "out")
    assert [entry["image_id"] for entry in result.annotations] == ["a"]
    assert result.skipped["neither findings nor impression"] == ["img/b.jpg"]
    assert result.skipped["no such file"] == ["img/c.jpg"]
    assert result.skipped["another image has the same name"] == ["img/a.png"]
    assert "d.jpg" in result.skipped["cannot be read as an image"][0]
    assert [path.name for path in (tmp_path / "out/image").iterdir()] == ["a.jpg"]
    for line in ("1 images with reports: train 1", "1 images skipped: no such file:\n  img/c.jpg"):
        assert line in result.summary()


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, row("a.jpg", findings="", impression=""))
    with pytest.raises(DataError, match=r"no usable pair(.|\n)*neither findings nor impression(.|\n)*a\.jpg"):
        convert_pairs(manifest, tmp_path / "out")


def test_missing_columns_are_named(tmp_path: Path) -> None:
    manifest = write_manifest(
        tmp_path, row("a.jpg"), columns=tuple(c for c in COLUMNS if c not in ("view", "split"))
    )
    with pytest.raises(DataError, match=r"missing: view, split \(there are: licence, impression"):
        convert_pairs(manifest, tmp_path / "out")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a.jpg", split="dev")], r"1 splits are none of train, validate, test:\n  img/a\.jpg: 'dev'"),
        (
            [row("a.jpg", study_id="7"), row("b.jpg", study_id="7", split="validate")],
            r"1 studies are in more than one split:\n  7: train, validate",
        ),
    ],
)
def test_bad_splits_are_refused(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        convert_pairs(write_manifest(tmp_path, *rows), tmp_path / "out")


def test_absent_or_binary_manifest(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere\.csv"):
        convert_pairs(tmp_path / "nowhere.csv", tmp_path / "out")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"x\.csv: not a CSV file in UTF-8"):
        convert_pairs(tmp_path / "x.csv", tmp_path / "out")


def test_existing_files_are_replaced_only_by_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_manifest(tmp_path / "in", row("a.jpg"))
    output = tmp_path / "out"
    command = ["pairs", str(manifest), str(output)]
    assert main(command) == 0
    assert "1 images with reports: train 1\n" in capsys.readouterr().out
    (output / "filter_cap.json").write_text("precious")
    assert main(command) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (output / "filter_cap.json").read_text() == "precious"
    assert main([*command, "--force"]) == 0
    assert json.loads((output / "filter_cap.json").read_text())["annotations"][0]["study_id"] == "a.jpg"


def test_caption_without_text_is_empty() -> None:
    assert caption_of(" \n", "") == ""
    assert caption_of("Clear.", "") == "Findings: Clear."
