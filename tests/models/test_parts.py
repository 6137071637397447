"""Parts replaced by one line of YAML: in any model, with what belongs to them, and with images that fit."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.tiny import SENTENCES
from xraygpt.common.config import Config, build_typed
from xraygpt.common.errors import ConfigError
from xraygpt.common.optims import param_groups
from xraygpt.models.blip2_qformer import Blip2Qformer, Blip2QformerConfig
from xraygpt.models.blip_caption import BlipCaption, BlipCaptionConfig
from xraygpt.models.parts import run_part
from xraygpt.models.vision_tower import preprocessing_for
from xraygpt.models.vit_classifier import ViTClassifier, ViTClassifierConfig
from xraygpt.tasks import setup_task

TIMM: dict[str, Any] = {
    "vit_model": "timm:vit_tiny_patch16_224",
    "image_size": 32,
    "vision": {"args": {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8}},
}
BERT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def yaml_config(tmp_path: Path, model: str) -> Config:
    file = tmp_path / "run.yaml"
    phantom = "datasets: {phantom: {splits: {train: {seed: 1, count: 2}}}}"
    section = f"model: {{arch: mini_gpt4, model_type: tiny, {model}}}"
    file.write_text(f"{section}\n{phantom}\nrun: {{task: image_text_pretrain}}\n")
    return Config(argparse.Namespace(cfg_path=str(file), options=None))


def test_one_line_replaces_the_encoder_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    cfg = yaml_config(
        tmp_path, "vit_model: medclip, vit_ckpt: null, q_former_model: null, bridge: linear"
    ).model_cfg
    assert (cfg.vision.args, cfg.image_size, cfg.ckpt) == ({}, None, None)
    assert cfg.llama_model == "package:weights/tiny/llama"  # what does not belong to it stays
    assert preprocessing_for(cfg).image_size == 224
    with pytest.raises(ConfigError, match=r"model\.vit_ckpt: vit_ckpt must name the weights of medclip"):
        yaml_config(tmp_path, "vit_model: medclip")


def test_one_line_replaces_the_bridge(tmp_path: Path) -> None:
    cfg = yaml_config(tmp_path, "bridge: mlp").model_cfg
    assert (cfg.bridge, cfg.bridge_config.depth, cfg.ckpt, cfg.q_former_model) == ("mlp", 2, None, None)
    assert cfg.vit_ckpt == "package:weights/tiny/vit.pth"


def test_data_sets_prepare_images_for_the_encoder(tmp_path: Path) -> None:
    cfg = yaml_config(tmp_path, "vit_model: medclip, vit_ckpt: null, image_size: 96, bridge: linear")
    image = setup_task(cfg).build_datasets(cfg)["phantom"]["train"][0]["image"]
    darkest = (0 - 0.5862785803043838) / 0.27950088968644304
    assert image.shape == (3, 96, 96)
    assert darkest - 1e-5 <= float(image.min()) < darkest + 0.5


@pytest.fixture
def vocabulary(tmp_path: Path) -> str:
    words = sorted({word for text in SENTENCES for word in text.lower().replace(".", " .").split()})
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    return str(file)


def batch(size: int = 2) -> dict[str, Any]:
    return {"image": torch.randn(size, 3, 32, 32), "caption": SENTENCES[:size], "image_id": ["a", "b"][:size]}


def test_every_model_with_an_encoder_takes_any(vocabulary: str) -> None:
    torch.manual_seed(0)
    text = {"bert_tokenizer": vocabulary, "max_txt_len": 12}
    stage1 = Blip2Qformer.from_config(
        build_typed(Blip2QformerConfig, {**TIMM, **text, "qformer": BERT, "num_query_token": 3})
    )
    assert torch.isfinite(stage1(batch())["loss"])
    writer = BlipCaption.from_config(build_typed(BlipCaptionConfig, {**TIMM, **text, "med": BERT}))
    assert torch.isfinite(writer(batch())["loss"])
    classifier = ViTClassifier.from_config(
        build_typed(ViTClassifierConfig, {**TIMM, "num_labels": 3, "num_heads": 2})
    )
    loss = classifier(batch() | {"labels": torch.ones(2, 3)})["loss"]
    loss.backward()
    assert classifier.visual_encoder.get_parameter("trunk.blocks.0.norm1.weight").grad is not None


def test_a_trained_encoder_has_layer_wise_rates() -> None:
    model = ViTClassifier.from_config(build_typed(ViTClassifierConfig, {**TIMM, "num_heads": 2}))
    scales = {group.get("lr_scale", 1.0) for group in param_groups(model, 0.1, layer_decay=0.5)}
    assert scales == {1.0, 0.5, 0.25, 0.125}


def test_no_graph_is_kept_through_what_is_frozen() -> None:
    part = torch.nn.Linear(2, 2).requires_grad_(False)
    x = torch.ones(1, 2)
    assert not run_part(part, x).requires_grad
    assert run_part(part, x.requires_grad_()).requires_grad
    assert run_part(part.requires_grad_(), x.detach()).requires_grad
