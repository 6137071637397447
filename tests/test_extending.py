"""docs/extending.md: the modules and files that it shows are taken from the page and run."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from xraygpt import cli
from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import Table, registry
from xraygpt.datasets.builders import load_dataset
from xraygpt.evaluation.metrics import catalogue
from xraygpt.evaluation.metrics.catalogue import choose_metrics

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/extending.md"
MODULES = ("my_dataset", "my_encoder", "my_bridge", "my_metric", "my_task")
REPORTS = ["The heart is normal in size. The lungs are clear.", "There is a small left pleural effusion."]


def files() -> dict[str, str]:
    """The blocks of the page that open with the name of a file: name -> text."""
    blocks = re.findall(
        r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    return dict(blocks)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of the page and some data; what they register is forgotten afterwards."""
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        (tmp_path / "my_arrays" / split).mkdir(parents=True)
        for number, report in enumerate(REPORTS):
            file = tmp_path / "my_arrays" / split / f"{split}{number}"
            np.save(file, random.integers(0, 256, (80, 70), dtype=np.uint8))
            file.with_suffix(".txt").write_text(report)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for table in vars(registry).values():
        if isinstance(table, Table):
            table.names()  # imports what registers the package's own
            monkeypatch.setattr(table, "_classes", {**table._classes})
    monkeypatch.setattr(catalogue, "_OWN", [])
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


def test_the_page_shows_five_parts_of_moderate_length() -> None:
    shown = files()
    assert {*shown} == {*(f"{name}.py" for name in MODULES), "extended.yaml", "extended_eval.yaml"}
    assert all(len(shown[f"{name}.py"].splitlines()) < 60 for name in MODULES)


def test_what_the_page_shows_trains_and_is_scored(workplace: Path) -> None:
    assert cli.main(["train", "--cfg-path", "extended.yaml"]) == 0
    output = workplace / "output/extended"
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    scored = [line for line in lines if line["event"] == "valid"]
    assert [line["event"] for line in lines if line["event"] != "interval"] == ["train", "valid"] * 2
    assert all(line["perplexity"] == pytest.approx(np.exp(line["loss"])) for line in scored)
    weights = torch.load(output / "checkpoint_best.pth", weights_only=True)["model"]
    assert {key.split(".")[0] for key in weights} == {"visual_encoder", "pooled_norm", "llama_proj"}
    assert weights["llama_proj.weight"].shape == (128, 96)

    assert cli.main(["evaluate", "--cfg-path", "extended_eval.yaml"]) == 0
    scores = json.loads((output / "scores/scores.json").read_text())["scores"]
    assert {*scores} == {"word_recall", "rouge_l"}
    (predictions,) = (output / "scores").glob("predictions_*.jsonl")
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [row["reference"] for row in rows if "reference" in row] == REPORTS
    own = module("my_metric")
    values = [own.share_of_words(row["reference"], row["generated"]) for row in rows if "reference" in row]
    assert scores["word_recall"]["value"] == pytest.approx(np.mean(values))


def module(name: str) -> ModuleType:
    return sys.modules.get(name) or importlib.import_module(name)


@pytest.mark.usefixtures("workplace")
def test_a_data_set_without_a_file_of_defaults_opens_by_hand() -> None:
    module("my_dataset")
    splits = load_dataset("arrays", cfg_path="extended.yaml")
    assert {name: [data.caption(i) for i in range(len(data))] for name, data in splits.items()} == {
        "train": REPORTS,
        "val": REPORTS,
    }
    command = argparse.Namespace(cfg_path="extended.yaml", options=["datasets.arrays.type=small"])
    with pytest.raises(ConfigError, match=r"datasets\.arrays\.type: no type 'small'"):
        Config(command)


@pytest.mark.usefixtures("workplace")
def test_a_metric_of_ones_own_is_one_of_all() -> None:
    own = module("my_metric")
    assert [metric.name for metric in choose_metrics([])][-1] == "word_recall"
    assert [metric.name for metric in choose_metrics(["word_recall"])] == ["word_recall"]
    with pytest.raises(ValueError, match="the metric name 'word_recall' is taken"):
        importlib.reload(own)


def test_the_files_that_the_map_names_are_there() -> None:
    table = PAGE.read_text().partition("## The house")[2]
    folder = ""
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", table):
        folder = name.rpartition("/")[0] or folder
        package = ROOT / "xraygpt"
        assert (package / name).exists() or (package / folder / name).exists(), name
