"""The two steps of train_configs/text/tiny, shortened: from synthetic dialogues to scored answers."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from xraygpt.models import MiniGPT4
from xraygpt.preparation.cli import main
from xraygpt.runners.launch import launch

STEPS = Path(__file__).parents[2] / "train_configs/text/tiny"
SHORT = ["run.iters_per_epoch=2", "run.batch_size_train=4", "run.warmup_steps=1", "run.device=cpu"]


def test_dialogues_then_radiology(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("output/text/tiny")
    assert main(["phantom", "--as", "dialogues", "--studies", "40", "--out", str(out / "data")]) == 0
    launch(Namespace(cfg_path=str(STEPS / "dialogues.yaml"), options=SHORT))
    launch(
        Namespace(cfg_path=str(STEPS / "radiology.yaml"), options=[*SHORT, "run.generate.max_new_tokens=4"])
    )
    lines = [json.loads(line) for line in (out / "radiology/predictions_test.jsonl").read_text().splitlines()]
    data = out / "data/radiology_test.jsonl"
    assert [row["image_id"] for row in lines] == [f"{data}: line {n}" for n in range(1, 5)]
    answers = [json.loads(line)["messages"][-1]["content"] for line in data.read_text().splitlines()]
    assert [row["reference"] for row in lines] == answers
    assert "exact_match" in json.loads((out / "radiology/scores.json").read_text())["metrics"]
    config = MiniGPT4.type_config("tiny")
    config.llama_model, config.ckpt = str(out / "radiology"), None
    MiniGPT4.from_config(config)
