"""What is found out before a run begins, and which process says so."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

import evaluate
from tests.toy import write_config, write_dataset
from xraygpt.common import command_line
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.errors import ConfigError, MissingFileError
from xraygpt.runners import launch as launch_module
from xraygpt.runners.launch import launch

ROOT = Path(__file__).parents[2]
PROMPTS = f"model.prompt_path={ROOT / 'prompts' / 'alignment.txt'}"
PRETRAINED = [
    "weights/eva_vit_g.pth",
    "weights/blip2_pretrained_flant5xxl.pth",
    "weights/Vicuna_Radiology_fp16",
]


@pytest.mark.parametrize(
    ("file", "options", "others"),
    [
        ("train_configs/xraygpt_mimic_pretrain.yaml", [], ["dataset/mimic"]),
        (
            "train_configs/xraygpt_mimic_pretrain.yaml",
            ["datasets.openi.sample_ratio=2"],
            ["dataset/mimic", "dataset/openi"],
        ),
        (
            "train_configs/xraygpt_openi_finetune.yaml",
            [PROMPTS],
            ["dataset/openi", "output/xraygpt_mimic_pretrain/checkpoint_3.pth"],
        ),
        (
            "eval_configs/xraygpt_eval.yaml",
            [PROMPTS],
            ["dataset/openi", "output/xraygpt_openi_finetune/checkpoint_0.pth"],
        ),
    ],
)
def test_all_that_is_missing_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, options: list[str], others: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError) as caught:
        launch(Namespace(cfg_path=str(ROOT / file), options=options))
    lines = str(caught.value).splitlines()
    for name in [*PRETRAINED, *others]:
        assert sum(f"expected at: {name} (" in line for line in lines) == 1, name
    assert sum(line.startswith("missing ") for line in lines) == len(PRETRAINED) + len(others)
    assert len(set(lines)) == len(lines)


def test_nothing_to_evaluate_is_told_before_anything_is_made(tmp_path: Path) -> None:
    cfg = write_config(tmp_path / "c.yaml", tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ConfigError, match="run.test_splits is empty"):
        launch(Namespace(cfg_path=str(cfg), options=[]), evaluate_only=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_output_folder_that_cannot_be_made(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    cfg = write_config(tmp_path / "c.yaml", tmp_path / "nowhere", tmp_path / f"file{below}")
    with pytest.raises(ConfigError, match=r"run\.output_dir: .*/file"):
        launch(Namespace(cfg_path=str(cfg), options=[]))


def test_output_folder_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_module.os, "access", lambda path, mode: False)  # root may write anywhere
    cfg = write_config(tmp_path / "c.yaml", tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ConfigError, match="may not be written to"):
        launch(Namespace(cfg_path=str(cfg), options=[]))


@pytest.mark.parametrize("works", [True, False])
def test_only_the_main_process_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], works: bool
) -> None:
    storage = write_dataset(tmp_path / "data") if works else tmp_path / "nowhere"
    cfg = write_config(tmp_path / "c.yaml", storage, tmp_path / "out", test_splits=["val"])
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--cfg-path", str(cfg)])
    monkeypatch.setattr(command_line, "SECONDS_FOR_MESSAGE", 0.0)
    monkeypatch.setattr(launch_module, "init_distributed_mode", lambda run: None)
    monkeypatch.setenv("RANK", "1")
    if works:
        outcome = ({"val": {"loss": 1.0}}, ["next: nothing"])
        monkeypatch.setattr(launch_module, "_launch", lambda *args: outcome)
    assert evaluate.main() == (0 if works else 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error:" not in captured.err


OWN_PARTS = """
from tests.toy import ToyModel
from xraygpt.common.registry import registry
from xraygpt.datasets.builders import OpenIBuilder
from xraygpt.tasks import ImageTextPretrainTask


@registry.register_model("own_model")
class OwnModel(ToyModel):
    pass


@registry.register_builder("own_data")
class OwnBuilder(OpenIBuilder):
    pass


@registry.register_task("own_task")
class OwnTask(ImageTextPretrainTask):
    def after_evaluation(self, *args, **kwargs):
        return {**super().after_evaluation(*args, **kwargs), "own": 1}
"""


def test_parts_of_a_users_own_module_train_and_are_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    Path("own_xray_parts.py").write_text(OWN_PARTS)
    path = write_config(tmp_path / "c.yaml", write_dataset(tmp_path / "data"), tmp_path / "out")
    content = yaml.safe_load(path.read_text())
    content["datasets"]["own_data"] = content["datasets"].pop("openi")
    content["model"]["arch"] = "own_model"
    content["run"] |= {"task": "own_task", "max_epoch": 1, "test_splits": ["val"]}
    path.write_text(yaml.safe_dump(content))
    options = ["imports=[own_xray_parts]"]
    assert launch(Namespace(cfg_path=str(path), options=options))["val"]["own"] == 1
    saved = load_checkpoint(tmp_path / "out" / "checkpoint_0.pth")["config"]
    assert saved["imports"] == ["own_xray_parts"]
