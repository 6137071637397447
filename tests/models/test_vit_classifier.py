"""The warm-up of the vision encoder."""

from pathlib import Path

import pytest
import torch

from tests.models.tiny import tiny_config
from xraygpt.common.errors import ConfigError, DataError
from xraygpt.models.eva_vit import VisionConfig
from xraygpt.models.vision_tower import VisionTower, build_encoder
from xraygpt.models.vit_classifier import ViTClassifier, ViTClassifierConfig

VISION = VisionConfig(img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2.0)


def _model() -> ViTClassifier:
    torch.manual_seed(0)
    return ViTClassifier.from_config(ViTClassifierConfig(vision=VISION, num_labels=2, num_heads=2))


def test_it_learns_which_half_is_bright() -> None:
    model = _model()
    image = torch.zeros(4, 3, 16, 16)
    image[1:3, :, :8] = 1.0
    image[2:4, :, 8:] = 1.0
    labels = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model({"image": image, "labels": labels})["loss"]
        loss.backward()
        optimizer.step()
    assert torch.equal((model.predict(image) > 0).long(), labels)


def test_its_encoder_is_read_by_the_next_stage(tmp_path: Path) -> None:
    model = _model()
    model.export(tmp_path)
    following = VisionTower(tiny_config(), build_encoder(tiny_config()))
    following.load_vision_encoder(str(tmp_path / "vit.pth"))
    image = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(following.visual_encoder(image), model.visual_encoder(image))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="num_heads"):
        ViTClassifier.from_config(ViTClassifierConfig(vision=VISION, num_heads=5))


def test_a_data_set_without_fitting_labels_is_named() -> None:
    model, image = _model(), torch.zeros(1, 3, 16, 16)
    with pytest.raises(DataError, match="'openi' gives none"):
        model({"image": image, "source": "openi"})
    with pytest.raises(DataError, match=r"'phantom' gives 9 labels.*model\.num_labels to 9"):
        model({"image": image, "labels": torch.zeros(1, 9), "source": "phantom"})
    with pytest.raises(DataError, match=r"datasets\.phantom\.data_type"):
        model({"labels": torch.zeros(1, 2), "source": "phantom"})
