"""Reports for what comes without any: a folder of images and DICOM files, a table of images."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pictures.dicom_files import chest, dicom
from tests.toy import write_config, write_dataset
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.runners.launch import launch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images in two folders, two of them DICOM, and files that are no images."""
    images = write_dataset(tmp_path / "data", train=2, val=0) / "image"
    (images / "b").mkdir()
    (images / "b" / "scan.DCM").write_bytes(dicom(chest(), PatientName="Doe^Jane"))
    (images / "b" / "1.2.840.7").write_bytes(dicom(chest()))
    (images / "notes.txt").write_text("none")
    (images / ".hidden").mkdir()
    (images / ".hidden" / "x.png").write_bytes((images / "x0.png").read_bytes())
    return images


def generate(
    tmp_path: Path, build_info: dict[str, Any], *options: str, **dataset: Any
) -> list[dict[str, Any]]:
    run = {"task": "report_generation", "evaluate": True, "test_splits": ["test"]}
    cfg = write_config(tmp_path / "c.yaml", tmp_path, tmp_path / "out", **run)
    content = yaml.safe_load(cfg.read_text())
    section = content["datasets"].pop("openi")
    content["datasets"]["caption"] = {**section, "build_info": build_info, **dataset}
    cfg.write_text(yaml.safe_dump(content))
    launch(Namespace(cfg_path=str(cfg), options=list(options)))
    lines = (tmp_path / "out" / "predictions_test.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_folder_of_images_and_dicom(tmp_path: Path, folder: Path) -> None:
    rows = generate(tmp_path, {"images": str(folder)}, "run.page.enabled=true")
    assert [row["image_id"] for row in rows] == ["b/1.2.840.7", "b/scan.DCM", "x0.png", "x1.png"]
    assert {row["reference"] for row in rows} == {""}
    assert rows[0]["generated"] == rows[1]["generated"].strip() != ""
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "4 of 4 images have no reference report; these are not scored" in log
    assert not (tmp_path / "out" / "scores.json").exists()
    for file in (tmp_path / "out").iterdir():
        assert "Jane" not in file.read_text()


def test_a_table_of_images_without_reports(tmp_path: Path, folder: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("file,study_id,split\nx1,s,train\nb/scan.DCM,s,train\n")
    columns = {"image": "file", "caption": None}
    rows = generate(tmp_path, {"images": str(folder), "annotations": str(table), "columns": columns})
    assert [(row["image_id"], row["study_id"], row["reference"]) for row in rows] == [
        ("x1", "s", ""),
        ("b/scan.DCM", "s", ""),
    ]
    with pytest.raises(ConfigError, match="leave split out"):
        generate(tmp_path, {"images": str(folder), "columns": {**columns, "split": "split"}})


def test_reports_are_scored_where_there_is_a_reference(tmp_path: Path, folder: Path) -> None:
    storage = folder.parent
    rows = [{"image_id": f"x{n}", "caption": text, "split": "test"} for n, text in enumerate(["value 1", ""])]
    (storage / "filter_cap.json").write_text(json.dumps({"annotations": rows}))
    assert len(generate(tmp_path, {"storage": str(storage)})) == 2
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["reports"] == 1
    assert "1 of 2 images have no reference report" in (tmp_path / "out" / "log.txt").read_text()


def test_images_without_reports_choose_no_checkpoint(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="no data set has the split 'train'"):
        generate(tmp_path, {"images": str(folder)}, "run.evaluate=false")


def test_what_cannot_be_read_is_named_or_left_out(tmp_path: Path, folder: Path) -> None:
    (folder / "b" / "ct").write_bytes(dicom(chest(), Modality="CT"))
    with pytest.raises(DataError, match=r"b/ct: .*CT.*skip_corrupt"):
        generate(tmp_path, {"images": str(folder)})
    assert len(generate(tmp_path, {"images": str(folder)}, skip_corrupt=True)) == 4
    assert "CT" in (tmp_path / "out" / "skipped_images.txt").read_text()


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none .*: no images in or below it"):
        generate(tmp_path, {"images": str(tmp_path / "none")})
