"""A ViT with a pooling head that names findings: a warm-up of the vision encoder on labelled images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xraygpt.common.checkpoint import save_checkpoint
from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import registry
from xraygpt.datasets.batch import images_of, labels_of
from xraygpt.models.parts import VisionEncoder
from xraygpt.models.vision_tower import VisionTower, VisionTowerConfig


@dataclass
class ViTClassifierConfig(VisionTowerConfig):
    """Settings of `ViTClassifier`."""

    freeze_vit: bool = False
    """Whether the vision encoder stays as loaded, and the head alone is trained."""
    num_labels: int = 1
    """Number K of findings."""
    num_heads: int = 4
    """Heads of the attention that the findings read the image with."""
    ckpt: str | None = None
    """Checkpoint of such a training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_labels < 1:
            raise ValueError("num_labels must be at least 1")


class FindingsHead(nn.Module):
    """One learnt query for each finding looks at the image: tokens (B, N, D) -> logits (B, K)."""

    def __init__(self, width: int, num_labels: int, num_heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, num_labels, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.answer_norm = nn.LayerNorm(width)
        self.weight = nn.Parameter(torch.randn(num_labels, width) * 0.02)
        self.bias = nn.Parameter(torch.zeros(num_labels))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm(tokens)
        queries = self.queries.expand(tokens.shape[0], -1, -1)
        answers = self.attention(queries, tokens, tokens, need_weights=False)[0]  # (B, K, D)
        return (self.answer_norm(answers) * self.weight).sum(dim=-1) + self.bias


@registry.register_model("vit_classifier")
class ViTClassifier(VisionTower):
    """Image -> one logit for each finding; keys of the encoder are ``visual_encoder.*`` as in `MiniGPT4`."""

    config_class: ClassVar[type] = ViTClassifierConfig
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = {
        "tiny": "configs/models/vit_classifier_tiny.yaml"
    }
    MODEL_TYPE_REQUIRED = False
    REQUIRED_PARTS = ("visual_encoder", "head")
    CHECKPOINT = ("a trained classifier", "a training of this project")

    def __init__(self, config: ViTClassifierConfig, encoder: VisionEncoder) -> None:
        super().__init__(config, encoder)
        self.config = config
        if encoder.width % config.num_heads:
            raise ConfigError(
                f"model.num_heads {config.num_heads} does not divide {encoder.width}, the width of the "
                "vision encoder's tokens"
            )
        self.head = FindingsHead(encoder.width, config.num_labels, config.num_heads)

    def predict(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) -> logits (B, K)."""
        return self.head(self.encode_patches(image).float())

    def forward(self, samples: Any) -> dict[str, Tensor]:
        """Binary cross entropy of ``labels`` (B, K), averaged over findings and images."""
        labels = labels_of(samples, self.config.num_labels)
        logits = self.predict(images_of(samples)).float()
        return {"loss": F.binary_cross_entropy_with_logits(logits, labels)}

    def export(self, folder: Path) -> None:
        """Write ``vit.pth``: the encoder alone, under the keys that it is published with, for `vit_ckpt`."""
        save_checkpoint(folder / "vit.pth", {"model": self.visual_encoder.published_state()})
