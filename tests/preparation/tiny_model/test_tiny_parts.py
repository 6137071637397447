"""The shipped parts, put together from small fakes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from xraygpt.common.checkpoint import load_weights, save_checkpoint
from xraygpt.common.errors import CheckpointError, MissingFileError
from xraygpt.preparation.cli import main
from xraygpt.preparation.tiny_model import tiny_parts

METRICS = (
    {"event": "train", "step": 1, "epoch": 0, "loss": 2.0, "seconds": 1.5},
    {"event": "train", "step": 2, "epoch": 0, "loss": 1.0, "seconds": 3.0},
    {"event": "train", "step": 3, "epoch": 1, "loss": 0.5, "seconds": 2.0},
    {"event": "val", "epoch": 1, "agg_metrics": -0.5, "findings": {"f1": 1.0}},
)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Finished trainings of all steps, and their YAML files in the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "trained"
    for step, config in (tiny_parts.STEPS | tiny_parts.PROJECTION_STEPS).items():
        (folder / step).mkdir(parents=True)
        (folder / step / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in METRICS))
        Path(config).parent.mkdir(parents=True, exist_ok=True)
        Path(config).write_text(f"# {step}\n")
    for name in tiny_parts.LLM_FILES[:-1]:
        (folder / "llm" / name).write_text(name)
    state = {"weight": torch.full((2, 2), 1.5), "steps": torch.tensor(3)}
    save_file(state, folder / "llm" / "model.safetensors")
    for name in ("vit/vit.pth", "stage2/qformer.pth", "finetune/projection.pth"):
        save_checkpoint(folder / name, {"model": state})
    (folder / "tokenizers" / "bert").mkdir(parents=True)
    (folder / "tokenizers" / "bert" / "vocab.txt").write_text("[PAD]\n")
    return folder


def test_parts_are_half_precision_and_on_record(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "parts"
    assert main(["tiny-parts", "--trained", str(trained), "--output", str(target)]) == 0
    for name in ("vit.pth", "qformer.pth", "llama/model.safetensors"):
        state = load_weights(target / name)
        assert state["weight"].dtype is torch.float16
        assert state["weight"].tolist() == [[1.5, 1.5], [1.5, 1.5]]
        assert state["steps"].dtype is torch.int64
    record = json.loads((target / "training" / "record.json").read_text())
    assert {"vit.pth", "qformer.pth", "bert/vocab.txt", "llama/tokenizer.model"} <= set(record["files"])
    assert not any(name.startswith("training") for name in record["files"])
    for name, facts in record["files"].items():
        content = (target / name).read_bytes()
        assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert set(record["trainings"]) == set(tiny_parts.STEPS)
    assert record["trainings"]["llm"] == {
        "steps": 3,
        "seconds": 5.0,
        "last_loss": 0.5,
        "validation": {"event": "val", "epoch": 1, "agg_metrics": -0.5},
    }
    assert (target / "training" / "vit.yaml").read_text() == "# vit\n"


def test_the_projection_joins_them(trained: Path, tmp_path: Path) -> None:
    files = tiny_parts.add_projection(trained, tmp_path / "parts")
    assert [file.name for file in files] == ["projection.pth", "record.json"]


def test_every_missing_file_is_named(trained: Path, tmp_path: Path) -> None:
    for name in ("stage2/qformer.pth", "vit/metrics.jsonl", "llm/model.safetensors"):
        (trained / name).unlink()
    with pytest.raises(MissingFileError) as caught:
        tiny_parts.assemble_parts(trained, tmp_path / "parts")
    for name in ("stage2/qformer.pth", "vit/metrics.jsonl", "llm/model.safetensors"):
        assert name in str(caught.value)
    assert "vocab.txt" not in str(caught.value)
    assert not (tmp_path / "parts").exists()
    (trained / "finetune" / "projection.pth").unlink()
    with pytest.raises(MissingFileError, match=r"projection\.pth"):
        tiny_parts.add_projection(trained, tmp_path / "parts")


def test_parts_that_are_too_large_are_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_parts, "SIZE_LIMIT", 100)
    with pytest.raises(CheckpointError, match="100 at most may ship"):
        tiny_parts.assemble_parts(trained, tmp_path / "parts")
