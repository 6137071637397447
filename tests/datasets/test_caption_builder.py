"""Anyone's own data by a few lines of configuration, from the table to training and evaluation."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.toy import metrics_of, write_config, write_dataset
from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError, DataError, MissingFileError
from xraygpt.datasets.builders import load_dataset
from xraygpt.preparation.pipeline.shards import write_shards
from xraygpt.runners.launch import launch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Any]:
    """The toy data as a CSV file and images in a folder of folders; returns the section build_info."""
    folder = write_dataset(tmp_path / "toy", suffix=".jpg")
    lines = ["no,file_name,report,set"]
    for index, row in enumerate(json.loads((folder / "filter_cap.json").read_text())["annotations"]):
        target = Path("images") / f"p{index % 3}" / f"{row['image_id']}.jpg"
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "image" / f"{row['image_id']}.jpg", tmp_path / target)
        name = target.relative_to("images")
        lines.append(f"{index},{name},{row['caption']},{row.get('split', 'train')}")
    (tmp_path / "reports.csv").write_text("\n".join(lines))
    return {
        "images": str(tmp_path / "images"),
        "annotations": str(tmp_path / "reports.csv"),
        "columns": {"image": "file_name", "caption": "report", "split": "set"},
    }


def write(path: Path, output: Path, build_info: dict[str, Any], **values: Any) -> Path:
    """Write a configuration of the toy model on the data set `caption`; `values` add to its section."""
    cfg = yaml.safe_load(write_config(path, Path(), output).read_text())
    section = cfg["datasets"].pop("openi")
    cfg["datasets"]["caption"] = {**section, "build_info": build_info, **values}
    path.write_text(yaml.safe_dump(cfg))
    return path


def run(cfg: Path, *options: str, evaluate_only: bool = False) -> None:
    launch(Namespace(cfg_path=str(cfg), options=list(options)), evaluate_only=evaluate_only)


def test_own_data_trains_like_the_prepared_folder_and_its_shards(tmp_path: Path, own: dict[str, Any]) -> None:
    prepared = {"storage": str(tmp_path / "toy")}
    for name, build_info in {"own": own, "prepared": prepared}.items():
        run(write(tmp_path / f"{name}.yaml", tmp_path / name, build_info), "run.valid_splits=[val]")
    write_shards(tmp_path / "toy", 4096)
    shutil.rmtree(tmp_path / "toy" / "image")
    run(write(tmp_path / "s.yaml", tmp_path / "shards", prepared), "run.valid_splits=[val]")
    losses = metrics_of(tmp_path / "own")
    assert len({line["loss"] for line in losses}) == 12
    assert metrics_of(tmp_path / "prepared") == losses
    assert metrics_of(tmp_path / "shards") == losses
    assert metrics_of(tmp_path / "shards", "valid") == metrics_of(tmp_path / "own", "valid")


def test_reports_and_their_page_are_made_for_own_data(tmp_path: Path, own: dict[str, Any]) -> None:
    cfg = write(tmp_path / "e.yaml", tmp_path / "out", own)
    options = ("run.task=report_generation", "run.test_splits=[val]", "run.page.enabled=true")
    run(cfg, *options, evaluate_only=True)
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["reports"] == 5
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("data:image/") >= 5


def test_several_tables_and_text_alone(tmp_path: Path, own: dict[str, Any]) -> None:
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"file_name": "p9/z.jpg", "report": "value 1", "set": "test"}))
    cfg = tmp_path / "c.yaml"
    section = {"build_info": {**own, "annotations": [own["annotations"], str(more)], "images": None}}
    cfg.write_text(yaml.safe_dump({"datasets": {"caption": {**section, "data_type": "text"}}}))
    datasets = load_dataset("caption", cfg_path=cfg)
    assert {split: len(data) for split, data in datasets.items()} == {"train": 13, "val": 5, "test": 1}
    assert "image" not in datasets["test"][0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": None}, ConfigError, "set images .* and annotations"),
        ({"annotations": None}, DataError, r"no data set has the split 'train' \(caption has test\)"),
        ({"annotations": []}, ConfigError, "set images .* and annotations"),
        ({"images": "nowhere"}, MissingFileError, r"folder of the images(.|\n)*nowhere.*build_info\.images"),
        ({"annotations": "no.csv"}, MissingFileError, r"table of reports(.|\n)*no\.csv.*\.annotations"),
        ({"storage": "x"}, ConfigError, "storage already holds images and annotations"),
        ({"columns": {"images": "file_name"}}, ConfigError, "did you mean 'image'"),
    ],
)
def test_incomplete_settings(
    tmp_path: Path, own: dict[str, Any], change: dict[str, Any], error: type[Exception], message: str
) -> None:
    cfg = write(tmp_path / "c.yaml", tmp_path / "out", {**own, **change})
    with pytest.raises(error, match=message):
        run(cfg)


def test_shipped_example_needs_ten_lines_for_the_data(tmp_path: Path) -> None:
    path = ROOT / "train_configs" / "own_data" / "alignment.yaml"
    section = path.read_text().split("\ndatasets:\n")[1].split("\n\n")[0]
    assert len(section.splitlines()) <= 10
    cfg = Config(Namespace(cfg_path=str(path), options=[])).datasets_cfg["caption"]
    assert cfg.build_info.columns.image == "file_name"
