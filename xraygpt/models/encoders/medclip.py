"""``vit_model: medclip``: the vision half of MedCLIP-ViT, a Swin-T, which XrayGPT's paper names.

Source: Wang et al., "MedCLIP" (2022); sizes, normalisation and keys after its published code and weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from torch import Tensor, nn
from transformers import PreTrainedModel, SwinConfig

from xraygpt.common.checkpoint import load_state, load_weights
from xraygpt.common.registry import registry
from xraygpt.models.encoders.hf_encoder import HFEncoder, build_trunk, load_trunk
from xraygpt.models.encoders.trunk import TrunkConfig
from xraygpt.processors import Preprocessing

MEAN, STD = 0.5862785803043838, 0.27950088968644304
"""Of the grey values that MedCLIP was trained with."""
_HEAD = "projection_head.weight"
_PREFIXES = ("vision_model.", "visual_encoder.", "model.", "trunk.")
_OTHER_HALF = ("text_model.", "logit_scale")


@dataclass
class MedClipConfig(TrunkConfig):
    """Settings of MedCLIP's Swin; `args` replace sizes of Swin-T, e.g. {embed_dim: 32, depths: [1, 1]}."""

    output: Literal["tokens", "projection"] = "tokens"
    """Swin's tokens (49 of width 768), or their mean in the space it shares with texts (1 of width 512)."""
    projection_dim: int = 512
    """Width of that space."""


@registry.register_vision_encoder("medclip")
class MedClipEncoder(HFEncoder):
    """Swin-T and, if it is asked for, MedCLIP's projection behind the mean of the tokens."""

    config_class = MedClipConfig

    @classmethod
    def check(cls, config: Any, name: str) -> None:
        if name:
            raise ValueError(f"vit_model: there is one medclip, so nothing can follow it (not {name!r})")

    @classmethod
    def own_weights(cls, name: str) -> str | None:
        return None

    @classmethod
    def preprocessing_of(cls, config: Any, name: str) -> Preprocessing:
        return Preprocessing(config.img_size or 224, (MEAN,) * 3, (STD,) * 3)

    @classmethod
    def from_config(cls, config: Any, name: str) -> Self:
        """Build it with random weights."""
        preprocessing = cls.preprocessing_of(config, name)
        sizes = {"image_size": preprocessing.image_size, "drop_path_rate": config.drop_path_rate}
        trunk = build_trunk(SwinConfig(**sizes), config.args, "medclip")
        return cls(trunk, config, preprocessing, "medclip")

    def __init__(
        self, trunk: PreTrainedModel, config: MedClipConfig, preprocessing: Preprocessing, label: str
    ) -> None:
        super().__init__(trunk, config, preprocessing, label)
        self.identity = label
        self.projection_head: nn.Linear | None = None
        if config.output == "projection":
            self.projection_head = nn.Linear(self.width, config.projection_dim, bias=False)
            self.width, self.num_tokens = config.projection_dim, 1

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, N, V)."""
        tokens = super().forward(image)
        return tokens if self.projection_head is None else self.projection_head(tokens.mean(1, keepdim=True))

    def load(self, path: Path) -> None:
        """Load MedCLIP's ``pytorch_model.bin``, both halves or the vision half alone."""
        state = {_plain(k): v for k, v in load_weights(path).items() if not k.startswith(_OTHER_HALF)}
        head = state.pop(_HEAD, None)
        load_trunk(self.trunk, self.trunk_keys(state), str(path))
        if self.projection_head is not None:
            given: Mapping[str, Tensor] = {} if head is None else {"weight": head}
            load_state(self.projection_head, given, where=f"{path} ({_HEAD})")

    def published_state(self) -> dict[str, Tensor]:
        head = {} if self.projection_head is None else {_HEAD: self.projection_head.weight}
        return {f"model.{key}": value for key, value in self.trunk.state_dict().items()} | head


def _plain(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key
