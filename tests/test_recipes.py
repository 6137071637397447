"""The recipes of train_configs/recipes: models are as large as their sources say, and small ones train."""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PhiConfig, PreTrainedConfig

from xraygpt import cli
from xraygpt.common.config import Config
from xraygpt.common.paths import package_root
from xraygpt.models.adapters import is_adapter_key
from xraygpt.models.encoders import hf_encoder
from xraygpt.models.llm import load_tokenizer
from xraygpt.models.mini_gpt4 import MiniGPT4

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "train_configs/recipes"
NAMES = sorted(file.stem for file in RECIPES.glob("*.yaml"))
TINY_LLM = package_root() / "weights/tiny/llama"

ENCODERS: dict[str, dict[str, Any]] = {
    # Sizes of these repositories, as fine-tunes' copies, adapters and pages about them give them.
    "microsoft/swin-base-patch4-window7-224": {
        "model_type": "swin",
        "image_size": 224,
        "patch_size": 4,
        "embed_dim": 128,
        "depths": [2, 2, 18, 2],
        "num_heads": [4, 8, 16, 32],
        "window_size": 7,
    },
    "microsoft/rad-dino": {
        "model_type": "dinov2",
        "image_size": 518,
        "patch_size": 14,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "mlp_ratio": 4,
    },
    "StanfordAIMI/XraySigLIP__vit-l-16-siglip-384__webli": {
        "model_type": "siglip",
        "vision_config": {
            "model_type": "siglip_vision_model",
            "image_size": 512,
            "patch_size": 16,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
    },
}


@dataclass(frozen=True)
class Facts:
    """What a model is, by its source or by arithmetic on what its source says."""

    tokens: int
    """Image tokens that reach the language model."""
    width: int
    """Of the encoder's tokens."""
    encoder: float
    """Parameters of the encoder in millions, to the nearest 0.1."""
    bridge: int
    """Parameters of bridge and projection."""
    llm: int = 4096
    """Width of the language model."""


def linear(*widths: int) -> int:
    """Parameters of linear layers from width to width, with biases."""
    return sum(a * b + b for a, b in itertools.pairwise(widths))


def q_former() -> int:
    """Parameters of BLIP-2's Q-Former without its text half: BERT-base, which looks at the image in every
    second of its layers; the queries, the norms before them and behind the encoder."""
    d, v, norm = 768, 1408, 2 * 768
    attention = 4 * linear(d, d) + norm
    crossing = 2 * linear(d, d) + 2 * linear(v, d) + norm
    feed_forward = linear(d, 4 * d, d) + norm
    return 12 * (attention + feed_forward) + 6 * crossing + norm + 32 * d + 2 * v


MINIGPT4 = Facts(32, 1408, 985.9, q_former() + linear(768, 4096))
XRAYGPT = Facts(49, 768, 27.5, linear(768, 4096))
LLAVA_RAD = Facts(37 * 37, 768, 86.6, linear(768, 4096, 4096))
R2GENGPT = Facts(49, 1024, 86.7, linear(1024, 4096))
FACTS = {
    "chexagent2": Facts(32 * 32, 1024, 304.1, linear(1024, 2560, 2560, 2560), llm=2560),
    "llava_rad_1": LLAVA_RAD,
    "llava_rad_2": LLAVA_RAD,
    "maira": Facts(37 * 37, 768, 86.6, linear(768, 4096, 4096, 4096, 4096)),
    "minigpt4_1": MINIGPT4,
    "minigpt4_2": MINIGPT4,
    "r2gengpt_deep": R2GENGPT,
    "r2gengpt_delta": R2GENGPT,
    "r2gengpt_shallow": R2GENGPT,
    "xraygpt_1": XRAYGPT,
    "xraygpt_2": XRAYGPT,
}
TRAINED = {
    "llava_rad_2": {"llama_model"},
    "maira": {"llama_model"},
    "r2gengpt_deep": {"visual_encoder"},
    "r2gengpt_delta": {"visual_encoder"},
}
"""What a recipe trains beside projection and bridge."""
R2GENGPT_DELTA = 16 * 2 * 2 * (2 * 128 + 2 * 256 + 18 * 512 + 2 * 1024)
"""Rank 16 beside the queries and values of Swin-B: pairs of matrices in each of its layers."""
LLAVA_RAD_LORA = 32 * 64 * (4 * 2 * 4096 + 3 * (4096 + 11008))
"""Rank 64 beside the seven matrices in each of the 32 layers of Vicuna-7B."""
LANGUAGE_MODELS: dict[int, Callable[..., PreTrainedConfig]] = {4096: LlamaConfig, 2560: PhiConfig}
"""Width -> kind of the language model that a recipe names."""


def load(file: Path) -> Config:
    return Config(argparse.Namespace(cfg_path=str(file), options=None))


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's encoders as folders that hold their sizes only."""
    for name, sizes in ENCODERS.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(json.dumps(sizes))
    monkeypatch.setattr(hf_encoder, "vision_folder", lambda name: tmp_path / name)


def count(*parts: nn.Module | nn.Parameter) -> int:
    return sum(
        part.numel() if isinstance(part, nn.Parameter) else sum(p.numel() for p in part.parameters())
        for part in parts
    )


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_as_large_as_its_source_says(name: str) -> None:
    facts = FACTS[name]
    tokenizer = load_tokenizer(TINY_LLM)
    config = load(RECIPES / f"{name}.yaml").model_cfg
    sizes = LANGUAGE_MODELS[facts.llm](
        vocab_size=len(tokenizer),
        hidden_size=facts.llm,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=32,
    )
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(sizes)
        model = MiniGPT4.build(replace(config, vit_precision="fp32"), llm=llm, tokenizer=tokenizer)
    assert (model.tokens_per_image, model.visual_encoder.width) == (facts.tokens, facts.width)
    assert round(count(model.visual_encoder) / 1e6, 1) == facts.encoder
    bridge_parts = [*dict(model.bridge.named_children()).values(), *model.bridge.parameters(recurse=False)]
    assert count(*bridge_parts, model.llama_proj) == facts.bridge
    assert model.llama_proj.out_features == facts.llm
    model.add_adapters(config)
    trained = {key.split(".")[0] for key, p in model.named_parameters() if p.requires_grad}
    expected = {"llama_proj"} | ({"bridge_mlp"} if config.bridge == "mlp" else set())
    assert trained == expected | TRAINED.get(name, set())
    adapter = [p for key, p in model.visual_encoder.named_parameters() if is_adapter_key(key)]
    assert sum(p.numel() for p in adapter) == (R2GENGPT_DELTA if name == "r2gengpt_delta" else 0)


def test_what_the_sources_say_about_their_sizes() -> None:
    assert round((linear(1024, 4096) + 2 * 4096) / 1e6, 1) == 4.2  # R2GenGPT, shallow, with its LayerNorm
    assert round(R2GENGPT.encoder + R2GENGPT.bridge / 1e6, 1) == 90.9  # and deep
    assert round((R2GENGPT.bridge + R2GENGPT_DELTA) / 1e6, 1) == 5.0  # and delta
    # BLIP-2 gives its Q-Former 188 M parameters, with the word embeddings and text layers left out here.
    text_half = (30523 + 512) * 768 + 12 * (linear(768, 3072, 768) + 2 * 768)
    assert 185e6 < q_former() + text_half < 189e6


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_its_parameters_and_where_it_comes_from(name: str) -> None:
    text = (RECIPES / f"{name}.yaml").read_text()
    opening = text.partition("model:")[0]
    assert "Source" in opening
    assert "Changed" in opening or "changes: see" in opening
    arxiv = re.findall(r"arXiv (\d{4}\.\d{5})", opening)
    assert arxiv or f"see {name.rpartition('_')[0]}_" in opening
    for number in re.findall(r"([\d,]{7,}) parameters", text.replace("43,271,680", "")):
        counts = {
            FACTS[name].bridge,
            linear(768, 4096),
            86_743_224,  # Swin-B
            R2GENGPT_DELTA,
            LLAVA_RAD_LORA,
        }
        assert int(number.replace(",", "")) in counts


# Small ones


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


ORDER = sorted([*NAMES, "r2gengpt_encoder"], key=lambda name: (name != "r2gengpt_encoder", name))
"""Stages after what they need."""
FEW = [
    "run.max_epoch=1",
    "run.iters_per_epoch=2",
    "run.batch_size_train=2",
    "run.warmup_steps=1",
    "datasets.phantom.splits={train: {seed: 1, count: 4}, val: {seed: 2, count: 2}}",
]


def test_every_recipe_has_a_small_counterpart() -> None:
    assert {file.stem for file in RECIPES.glob("tiny/*.yaml")} == set(ORDER)
    assert set(FACTS) == set(NAMES)
    for name in NAMES:
        full, tiny = (load(RECIPES / f"{folder}{name}.yaml").model_cfg for folder in ("", "tiny/"))
        assert (full.bridge, full.bridge_config) == (tiny.bridge, tiny.bridge_config)
        assert full.vit_model.partition(":")[0] == tiny.vit_model.partition(":")[0]
        assert (full.vision.layer, full.vision.class_tokens) == (tiny.vision.layer, tiny.vision.class_tokens)
        assert bool(full.prompts()) == bool(tiny.prompts())


@pytest.mark.parametrize("name", ORDER)
def test_a_small_recipe_trains(name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps in an empty folder; a second stage starts from what the test of the first has left."""
    monkeypatch.chdir(workplace)
    file = f"train_configs/recipes/tiny/{name}.yaml"
    assert cli.main(["train", "--cfg-path", file, "--options", *FEW]) == 0
    output = workplace / "output/recipes/tiny" / name
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["event"] == "train"]
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)
    model = torch.load(output / "checkpoint_best.pth", weights_only=True)["model"]
    parts = {key.split(".")[0] for key in model}
    config = load(RECIPES / f"tiny/{name}.yaml").model_cfg
    assert ("visual_encoder" in parts) == (not config.freeze_vit or config.vit_adapter is not None)
    assert ("llama_model" in parts) == (name in ("llava_rad_2", "maira"))
