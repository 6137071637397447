"""A ViT with a pooling head that names findings: a warm-up of the vision encoder on labelled images."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xraygpt.common.checkpoint import save_checkpoint
from xraygpt.common.registry import registry
from xraygpt.models.base_model import BaseModel, file_check, images_of, labels_of, require_all
from xraygpt.models.eva_vit import VisionConfig, create_vision_encoder


@dataclass
class ViTClassifierConfig:
    """Settings of `ViTClassifier`."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    """Sizes of the vision encoder."""
    num_labels: int = 1
    """Number K of findings."""
    num_heads: int = 4
    """Heads of the attention that the findings read the image with."""
    ckpt: str | None = None
    """Checkpoint of such a training."""

    def __post_init__(self) -> None:
        if self.num_labels < 1:
            raise ValueError("num_labels must be at least 1")
        if self.vision.embed_dim % self.num_heads:
            raise ValueError("num_heads must divide vision.embed_dim")


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
        logits: Tensor = (self.answer_norm(answers) * self.weight).sum(dim=-1) + self.bias
        return logits


@registry.register_model("vit_classifier")
class ViTClassifier(BaseModel):
    """Image -> one logit for each finding; keys of the encoder are ``visual_encoder.*`` as in `MiniGPT4`."""

    config_class: ClassVar[type] = ViTClassifierConfig

    def __init__(self, config: ViTClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.visual_encoder = create_vision_encoder(config.vision)
        width = config.vision.embed_dim
        self.head = FindingsHead(width, config.num_labels, config.num_heads)

    @classmethod
    def check_files(cls, cfg: ViTClassifierConfig) -> None:
        require_all(
            [file_check("model.ckpt", cfg.ckpt, "a trained classifier", "a training of this project")]
        )

    @classmethod
    def from_config(cls, cfg: ViTClassifierConfig, device: str | torch.device = "cpu") -> Self:
        """Build the model at random, or load `cfg.ckpt`."""
        cls.check_files(cfg)
        model = cls(cfg)
        if cfg.ckpt is not None:
            model.load_checkpoint(cfg.ckpt, required=("visual_encoder", "head"))
        return model

    def predict(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) -> logits (B, K)."""
        logits: Tensor = self.head(self.visual_encoder(image))
        return logits

    def forward(self, samples: Any) -> dict[str, Tensor]:
        """Binary cross entropy of ``labels`` (B, K), averaged over findings and images."""
        labels = labels_of(samples, self.config.num_labels)
        logits = self.predict(images_of(samples)).float()
        return {"loss": F.binary_cross_entropy_with_logits(logits, labels)}

    def export(self, folder: Path) -> None:
        """Write ``vit.pth``: the encoder alone, under the keys of an EVA file, for `vit_ckpt`."""
        save_checkpoint(folder / "vit.pth", {"model": self.visual_encoder.state_dict()})
