"""What of a model is frozen, and that features of that part take the place of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import registry
from xraygpt.models.base_model import BaseModel
from xraygpt.models.mini_gpt4 import MiniGPT4

WHOLE, ENCODER = "vision encoder and bridge", "vision encoder"


def check_features(model: BaseModel, samples: dict[str, Any], name: str, shape: tuple[int, int]) -> None:
    """Compare losses and gradients from features with those from images, bit by bit."""
    model.train()
    part = model.frozen_part()
    assert (part.name, part.shape) == (name, shape)
    features = part.encode(samples["image"])
    assert features.shape[1:] == shape
    assert not features.requires_grad
    cached = {key: value for key, value in samples.items() if key != "image"} | {"features": features}
    seen = []
    for batch in (samples, cached):
        torch.manual_seed(0)
        model.zero_grad()
        loss = model(batch)["loss"]
        loss.backward()
        seen.append([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(seen[0]) > 1
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


@pytest.mark.parametrize(
    ("settings", "name", "shape"),
    [
        ({}, WHOLE, (3, 16)),
        ({"drop_path_rate": 0.5}, WHOLE, (3, 16)),  # a frozen encoder has no stochastic depth
        ({"freeze_qformer": False}, ENCODER, (5, 24)),
        ({"bridge": "linear"}, WHOLE, (5, 24)),
        ({"bridge": "mlp"}, ENCODER, (5, 24)),
    ],
)
def test_a_report_model_is_cached_up_to_what_is_trained(
    make_model: Callable[..., MiniGPT4],
    load: Callable[..., MiniGPT4],
    batch: dict[str, Any],
    settings: dict[str, Any],
    name: str,
    shape: tuple[int, int],
) -> None:
    model = (load if "bridge" in settings else make_model)(**settings)
    check_features(model, batch, name, shape)


@pytest.mark.parametrize("arch", ["blip2", "blip_caption", "blip_pretrain", "vit_classifier"])
def test_other_models_are_cached_up_to_the_encoder(arch: str) -> None:
    cls = registry.get_model_class(arch)
    torch.manual_seed(0)
    cfg = cls.type_config("tiny")
    image = torch.randn(4, 3, 64, 64)
    samples = {
        "image": image,
        "caption": ["Clear lungs.", "A large heart.", "No effusion.", "A nodule."],
        "labels": torch.eye(4, cfg.num_labels if arch == "vit_classifier" else 1),
    }
    check_features(cls.from_config(replace(cfg, freeze_vit=True, vit_ckpt=None)), samples, ENCODER, (65, 128))
    trained = cls.from_config(replace(cfg, freeze_vit=False, vit_ckpt=None))
    with pytest.raises(ConfigError, match="run.feature_cache: .* set model.freeze_vit to true"):
        trained.frozen_part()


def test_an_encoder_that_is_trained_is_refused(make_model: Callable[..., MiniGPT4]) -> None:
    with pytest.raises(ConfigError, match="run.feature_cache: .* set model.freeze_vit to true"):
        make_model(freeze_vit=False).frozen_part()
