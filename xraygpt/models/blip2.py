"""What BLIP-2's models share: vision encoder, Q-Former, tokenizer, and how their weights are loaded.

Shapes: B images or texts, N image tokens, V their width, Q query tokens, D the Q-Former's width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xraygpt.common.paths import Check, file_check
from xraygpt.models.bert_pretrained import init_bert_tokenizer
from xraygpt.models.bridges.qformer import QFormerBridge
from xraygpt.models.parts import Bridge, VisionEncoder
from xraygpt.models.parts import LayerNorm as LayerNorm
from xraygpt.models.Qformer import BertLMHeadModel, QformerConfig, QueryModel
from xraygpt.models.vision_tower import BLIP2_FILES, VisionTower, VisionTowerConfig, build_encoder

BLIP2_QFORMER_URL = f"{BLIP2_FILES}/blip2_pretrained_flant5xxl.pth"


@dataclass
class Blip2Config(VisionTowerConfig):
    """Settings of the frozen halves, shared by all models on top of them."""

    qformer: QformerConfig = field(default_factory=QformerConfig)
    """Sizes of the Q-Former."""
    q_former_model: str | None = None
    """Weights of Q-Former, query tokens and ln_vision (a BLIP-2 checkpoint or folder will do); none:
    random."""
    num_query_token: int = 32
    """Number of query tokens Q."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_query_token < 1:
            raise ValueError("num_query_token must be at least 1")


class Blip2Base(VisionTower):
    """Base of the models with a bridge behind the vision encoder, BLIP-2's Q-Former unless told otherwise.

    The parts of the bridge are attributes of the model, under the names that they have in published
    checkpoints: `ln_vision`, `Qformer` and `query_tokens` of BLIP-2's.
    """

    bridge: Bridge
    """What takes the encoder's tokens to those that are projected."""
    ln_vision: nn.Module
    Qformer: BertLMHeadModel | QueryModel
    query_tokens: nn.Parameter

    def __init__(self, cfg: Blip2Config, encoder: VisionEncoder, bridge: Bridge) -> None:
        super().__init__(cfg, encoder)
        object.__setattr__(self, "bridge", bridge)  # its parts are this model's children, and it is not
        self.ln_vision = nn.Identity()  # unless the bridge has a norm to read the encoder's tokens with
        for name, part in bridge.named_children():
            self.add_module(name, part)
        for name, parameter in bridge.named_parameters(recurse=False):
            self.register_parameter(name, parameter)

    init_tokenizer = staticmethod(init_bert_tokenizer)

    @classmethod
    def init_Qformer(
        cls, num_query_token: int, vision_width: int, cross_attention_freq: int = 2
    ) -> tuple[QueryModel | BertLMHeadModel, nn.Parameter]:
        """A random Q-Former of BERT-base's size, without text half, and its query tokens (1, Q, D)."""
        sizes = QformerConfig(query_length=num_query_token, cross_attention_freq=cross_attention_freq)
        bridge = QFormerBridge(sizes, vision_width)
        return bridge.Qformer, bridge.query_tokens

    @classmethod
    def init_vision_encoder(
        cls,
        model_name: str,
        img_size: int,
        drop_path_rate: float,
        use_grad_checkpoint: bool,
        precision: str,
    ) -> tuple[VisionEncoder, LayerNorm]:
        """A random vision encoder and the layer norm that follows it."""
        cfg = VisionTowerConfig(
            vit_model=model_name,
            img_size=img_size,
            drop_path_rate=drop_path_rate,
            use_grad_checkpoint=use_grad_checkpoint,
            vit_precision=precision,
        )
        encoder = build_encoder(cfg)
        return encoder, LayerNorm(encoder.width)

    @classmethod
    def part_checks(cls, cfg: Any) -> list[Check]:
        file = cfg.q_former_model
        qformer = file_check("model.q_former_model", file, "weights of the Q-Former", BLIP2_QFORMER_URL)
        return [*super().part_checks(cfg), qformer]

    def load_parts(self, cfg: Any) -> None:
        super().load_parts(cfg)
        if cfg.q_former_model is not None:
            self.load_from_pretrained(cfg.q_former_model)

    def load_from_pretrained(self, url_or_filename: str | Path) -> None:
        """Load the bridge's published weights, see `Bridge.load`: Q-Former, query tokens and ln_vision."""
        self.bridge.load(url_or_filename)

    def embed_image(self, image: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, N, V): vision encoder and, with a Q-Former, ln_vision."""
        return self.ln_vision(self.encode_patches(image))
