"""The best checkpoint is that of the metric that the configuration names."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from tests.toy import ToyModel, metrics_of, write_config, write_dataset
from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.models.generation import GeneratedReport
from xraygpt.runners.launch import launch

EPOCHS = ["value 1 and so on and on and so on and on", "value 1", "nothing"]


@pytest.fixture(autouse=True)
def texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the toy write the next of `EPOCHS` after each of its trainings."""

    def generate_detailed(self: ToyModel, samples: Any, generation: Any) -> list[GeneratedReport]:
        text = EPOCHS[min(self.steps // 6, len(EPOCHS)) - 1]
        return [GeneratedReport(text, 1, "length", 0.0) for _ in samples["image_id"]]

    monkeypatch.setattr(ToyModel, "generate_detailed", generate_detailed)


def train(tmp_path: Path, *options: str, **run: Any) -> Path:
    data = write_dataset(tmp_path / "data")
    settings = {"task": "report_generation", "valid_splits": ["val"], "max_epoch": 3, **run}
    launch(
        Namespace(
            cfg_path=str(write_config(tmp_path / "c.yaml", data, tmp_path / "out", **settings)),
            options=list(options),
        )
    )
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("name", "best", "sign"),
    [("rouge_1", 1, 1), ("words_generated", 0, 1), ("repeated_4grams", 1, -1), (None, 0, 1)],
)
def test_the_named_metric_chooses(tmp_path: Path, name: str | None, best: int, sign: int) -> None:
    output = train(tmp_path, best_metric=name)
    assert load_checkpoint(output / "checkpoint_best.pth")["epoch"] == best
    lines = metrics_of(output, "valid")
    assert [line["agg_metrics"] for line in lines] == [
        sign * line[name or "rule_f1_micro_14"] for line in lines
    ]


@pytest.mark.parametrize("settings", [{"best_metric": "rogue_l"}, {"best_metric": "rouge"}])
def test_an_unknown_metric_is_named_at_the_start(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"run\.best_metric: .*did you mean 'rouge_.'"):
        train(tmp_path, **settings)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_unknown_metrics_of_the_end_are_named_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.metrics: .*did you mean 'cider_d'"):
        train(tmp_path, metrics=["cider"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"metrics": [], "protocol": "r2gn"}, "did you mean 'r2gen'"),
        ({"metrics": ["bleu_4"], "protocol": "r2gen"}, "leave out one of both"),
    ],
)
def test_a_wrong_protocol_is_named_at_the_start(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"run\.protocol: .*{said}"):
        train(tmp_path, **settings)


def test_the_protocol_scores_the_test_split(tmp_path: Path) -> None:
    output = train(tmp_path, metrics=[], protocol="rexrank", test_splits=["val"], max_epoch=1)
    content = json.loads((output / "scores.json").read_text())
    assert "rexrank_bleu_2" in content["scores"]
    assert "bleu_2" not in content["scores"]
    assert content["protocol"]["protocol"] == "rexrank"


def test_other_tasks_have_a_score_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"run\.best_metric: belongs to the task report_generation, and run\.task is image_text_",
    ):
        train(tmp_path, best_metric="rouge_l", task="image_text_pretrain")


def test_a_metric_without_a_value_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run\.best_metric .* is not defined for the split 'val'"):
        train(tmp_path, best_metric="laterality_f1")
