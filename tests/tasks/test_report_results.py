"""What an evaluation leaves behind, through launch: odd-sized real images, runs before it, the page."""

from __future__ import annotations

import csv
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.toy import write_config, write_dataset
from xraygpt.common.errors import ConfigError, MissingFileError
from xraygpt.common.run_record import write_json, write_run_record
from xraygpt.runners.launch import launch


def storage(tmp_path: Path) -> Path:
    """The toy data with validation images of odd sizes and depths, and a report that needs escaping."""
    folder = write_dataset(tmp_path / "data", train=6, val=4)
    Image.new("I;16", (613, 127), 3000).save(folder / "image" / "x6.png")
    Image.new("RGBA", (31, 900)).save(folder / "image" / "x7.png")
    path = folder / "filter_cap.json"
    path.write_text(path.read_text().replace('"value 3"', '"value 3 <b>XXXX</b> cardiomegaly"'))
    return folder


def evaluate(tmp_path: Path, data: Path, **page: Any) -> dict[str, Any]:
    cfg = write_config(
        tmp_path / "eval.yaml",
        data,
        tmp_path / "out",
        task="report_generation",
        test_splits=["validate"],
        page={"enabled": True, **page},
    )
    launch(Namespace(cfg_path=str(cfg), options=[]), evaluate_only=True)
    return json.loads((tmp_path / "out" / "scores.json").read_text())


def test_page_and_scores_of_real_images(tmp_path: Path) -> None:
    data = storage(tmp_path)
    trained, untrained = tmp_path / "trained", tmp_path / "untrained"
    launch(Namespace(cfg_path=str(write_config(tmp_path / "t.yaml", data, trained)), options=[]))
    untrained.mkdir()
    before = {"rule_f1_micro_14": {"value": 0.125}, "cider_d": {"value": None}}
    write_json(untrained / "scores.json", {"scores": before})
    write_run_record(untrained, config="u.yaml", started="", seconds=1000)
    scores = evaluate(tmp_path, data, runs=[str(trained)], untrained=str(untrained), examples=3)
    assert scores["reports"] == 4
    assert scores["untrained"] == {"rule_f1_micro_14": 0.125}
    trained_seconds = json.loads((trained / "run.json").read_text())["seconds"]
    own_seconds = json.loads((tmp_path / "out" / "run.json").read_text())["seconds"]
    assert trained_seconds > 0
    before_own = 1000 + trained_seconds
    assert before_own < scores["seconds"] <= before_own + own_seconds + 0.02  # the page comes after; rounded
    html = (tmp_path / "out" / "report.html").read_text()
    assert "0.125" in html  # the score before training
    assert "trained" in html
    assert "synthetic" not in html.lower().split("<main", 1)[-1]
    assert html.count("data:image/jpeg;base64,") == 3
    assert "&lt;b&gt;XXXX&lt;/b&gt;" in html
    lines = (tmp_path / "out" / "predictions_validate.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["openi"] * 4


def test_scores_without_a_page(tmp_path: Path) -> None:
    scores = evaluate(tmp_path, storage(tmp_path), enabled=False)
    assert "untrained" not in scores
    assert scores["seconds"] == pytest.approx(0, abs=5)
    assert not (tmp_path / "out" / "report.html").exists()


def test_scores_of_further_splits_are_in_the_same_file(tmp_path: Path) -> None:
    cfg = write_config(
        tmp_path / "eval.yaml",
        storage(tmp_path),
        tmp_path / "out",
        task="report_generation",
        test_splits=["validate", "train"],
    )
    launch(Namespace(cfg_path=str(cfg), options=[]), evaluate_only=True)
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    other = scores["other_splits"]["train"]
    assert (scores["reports"], other["reports"]) == (4, 6)
    assert (other["protocol"]["images"], other["protocol"]["generation"]["split"]) == (6, "train")
    assert other["protocol"]["predictions"] == "predictions_train.jsonl"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {name for name in names if name.startswith("scores")} == {
        "scores.json",
        "scores.csv",
        "scores.tex",
    }
    assert {"predictions_validate.csv", "predictions_train.csv"} <= names


def test_intervals_draw_the_patients_that_the_annotations_name(tmp_path: Path) -> None:
    folder = storage(tmp_path)
    content = json.loads((folder / "filter_cap.json").read_text())
    for number, row in enumerate(content["annotations"]):
        row["patient_id"] = f"p{number // 2}"
    (folder / "filter_cap.json").write_text(json.dumps(content))
    scores = evaluate(tmp_path, folder, enabled=False)
    assert scores["unit"] == scores["protocol"]["unit"] == "patient"
    with (tmp_path / "out" / "predictions_validate.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["patient_id"] for row in rows] == ["p3", "p3", "p4", "p4"]
    assert all(float(row["rouge_l"]) >= 0 for row in rows)


def test_the_protocol_says_how_the_reports_were_made(tmp_path: Path) -> None:
    scores = evaluate(tmp_path, storage(tmp_path), enabled=False)
    facts = scores["protocol"]["generation"]
    assert (facts["split"], facts["model"]) == ("validate", "toy")
    assert facts["decoding"]["num_beams"] == 1
    assert len(facts["split_sha256"]) == 64
    assert facts["checkpoint"] == "none: the weights of the model type"
    assert len(facts["weights_fingerprint"]) == 64
    assert facts["generation_versions"]["torch"] == torch.__version__
    assert facts["generation_command"] == scores["protocol"]["command"]
    assert facts["reference_sections"] == "as the data set gives them"
    assert (tmp_path / "out" / "protocol.txt").read_text().strip()


def test_subgroups_are_columns_of_the_annotations(tmp_path: Path) -> None:
    folder = storage(tmp_path)
    content = json.loads((folder / "filter_cap.json").read_text())
    for number, row in enumerate(content["annotations"]):
        row["view"] = ["PA", "AP"][number % 2]
    (folder / "filter_cap.json").write_text(json.dumps(content))
    settings = {"task": "report_generation", "test_splits": ["validate"]}
    cfg = write_config(tmp_path / "e.yaml", folder, tmp_path / "out", **settings, subgroups=["view"])
    launch(Namespace(cfg_path=str(cfg), options=[]), evaluate_only=True)
    groups = json.loads((tmp_path / "out" / "scores.json").read_text())["subgroups"]["view"]
    assert [(group["value"], group["reports"]) for group in groups] == [("AP", 2), ("PA", 2)]
    rows = (tmp_path / "out" / "predictions_validate.jsonl").read_text().splitlines()
    assert {json.loads(row)["view"] for row in rows} == {"PA", "AP"}
    with pytest.raises(ConfigError, match=r"run\.subgroups: .*'views'; did you mean 'view'"):
        launch(Namespace(cfg_path=str(cfg), options=["run.subgroups=[views]"]), evaluate_only=True)


def test_run_that_has_not_ended_is_found_out_before_generating(tmp_path: Path) -> None:
    data = storage(tmp_path)
    with pytest.raises(MissingFileError, match=r"nowhere/metrics\.jsonl"):
        evaluate(tmp_path, data, runs=[str(tmp_path / "nowhere")])
    with pytest.raises(MissingFileError, match=r"nowhere/scores\.json"):
        evaluate(tmp_path, data, untrained=str(tmp_path / "nowhere"))
    assert not (tmp_path / "out" / "predictions_validate.jsonl").exists()
    assert not (tmp_path / "out" / "run.json").exists()


def test_failed_run_leaves_no_record_of_an_earlier_one(tmp_path: Path) -> None:
    data = storage(tmp_path)
    evaluate(tmp_path, data)
    with pytest.raises(MissingFileError):
        evaluate(tmp_path, data, runs=[str(tmp_path / "nowhere")])
    assert not (tmp_path / "out" / "run.json").exists()


def test_page_needs_a_test_split(tmp_path: Path) -> None:
    cfg = write_config(
        tmp_path / "e.yaml", tmp_path, tmp_path / "out", task="report_generation", page={"enabled": True}
    )
    with pytest.raises(ConfigError, match="test_splits"):
        launch(Namespace(cfg_path=str(cfg), options=[]), evaluate_only=True)
