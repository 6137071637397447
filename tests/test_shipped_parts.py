"""The tiny parts that ship with the package: whole, documented, small, and able to read phantoms."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from xraygpt.datasets.phantom.render import phantom_truth, render_phantom
from xraygpt.evaluation.metrics.metric import count_set_matches, micro_f1
from xraygpt.evaluation.metrics.phantom import extract_findings
from xraygpt.models import GenerationConfig, load_model_and_preprocess

ROOT = Path(__file__).parents[1]
PARTS = ROOT / "xraygpt" / "weights" / "tiny"
RECORD = json.loads((PARTS / "training" / "record.json").read_text(encoding="utf-8"))
SEED, COUNT = 901, 24  # phantoms that no training and no other evaluation uses


def reports_on(device: str) -> list[str]:
    """What the shipped model writes about a few phantoms."""
    model, vis_processors, _ = load_model_and_preprocess("mini_gpt4", "tiny", is_eval=True, device=device)
    images = [Image.fromarray(render_phantom(SEED, index, 64)) for index in range(COUNT)]
    batch = torch.stack([vis_processors["eval"](image) for image in images]).to(device)
    return model.generate({"image": batch}, GenerationConfig(max_new_tokens=120))


def test_files_are_the_ones_that_the_record_names() -> None:
    files = {
        str(path.relative_to(PARTS)): path
        for path in PARTS.rglob("*")
        if path.is_file() and path.parent.name != "training"
    }
    assert set(files) == set(RECORD["files"])
    for name, entry in RECORD["files"].items():
        content = files[name].read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["bytes"], entry["sha256"]), name
    assert sum(entry["bytes"] for entry in RECORD["files"].values()) <= 12_000_000


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("llm", "tiny/1_llm"),
        ("vit", "tiny/2_vit"),
        ("stage1", "tiny/3_stage1"),
        ("stage2", "tiny/4_stage2"),
        ("alignment", "quickstart/alignment"),
        ("finetune", "quickstart/finetune"),
    ],
)
def test_every_part_came_out_of_the_file_that_is_shipped(name: str, config: str) -> None:
    kept = yaml.safe_load((PARTS / "training" / f"{name}.yaml").read_text(encoding="utf-8"))
    shipped = yaml.safe_load((ROOT / "train_configs" / f"{config}.yaml").read_text(encoding="utf-8"))
    for config_of_run in (kept, shipped):
        config_of_run["run"].pop("next", None)  # is only said at the end
    assert kept == shipped
    assert RECORD["trainings"][name]["steps"] > 0


def f1(truths: list[set[str]], found: list[set[str]]) -> float:
    return float(micro_f1(count_set_matches(truths, found).sum(axis=0)))


def test_the_shipped_model_reads_phantoms() -> None:
    truths = [{finding.label for finding in phantom_truth(SEED, index)} for index in range(COUNT)]
    assert f1(truths, [extract_findings(report) for report in reports_on("cpu")]) >= 0.9


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_writes_the_same_findings() -> None:
    on_cpu, on_gpu = (
        [extract_findings(report) for report in reports_on(device)] for device in ("cpu", "cuda")
    )
    assert f1(on_cpu, on_gpu) >= 0.98
