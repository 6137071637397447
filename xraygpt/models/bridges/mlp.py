"""``bridge: linear`` and ``bridge: mlp``: every token of the encoder becomes one of the language model.

The last linear layer of either is the model's projection, `llama_proj`. Sources: XrayGPT's paper, R2GenGPT
(Wang et al., 2023) and MiniGPT-v2 (Chen et al., 2023) for the linear one; LLaVA-1.5 (Liu et al., 2023) and
MAIRA (Hyland et al., 2023) for the other.

Shapes: B images, N tokens of width V.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from xraygpt.common.errors import ConfigError
from xraygpt.common.registry import registry
from xraygpt.models.parts import Bridge, BridgeConfig


@dataclass
class LinearConfig(BridgeConfig):
    """Settings of `LinearBridge`."""

    merge: int = 1
    """How many neighbouring tokens are joined to one of `merge` times the width; 4 in MiniGPT-v2."""

    def __post_init__(self) -> None:
        if self.merge < 1:
            raise ValueError(f"merge must be at least 1, not {self.merge}")


@dataclass
class MLPConfig(LinearConfig):
    """Settings of `MLPBridge`."""

    depth: int = 2
    """Number of linear layers, the projection included: 2 is LLaVA's ``mlp2x_gelu``, 4 MAIRA's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 2:
            raise ValueError(f"depth must be at least 2, not {self.depth}; 1 is the bridge linear")


@registry.register_bridge("linear")
class LinearBridge(Bridge):
    """Joins neighbouring tokens, if it is asked to; else the projection sees the encoder's tokens."""

    config_class: ClassVar[type[BridgeConfig]] = LinearConfig

    def __init__(self, config: LinearConfig, width: int, llm_width: int) -> None:
        super().__init__(width * config.merge)
        self.merge = config.merge

    @classmethod
    def from_config(cls, model_config: Any, width: int, llm_width: int) -> Self:
        return cls(model_config.bridge_config, width, llm_width)

    def num_tokens(self, count: int) -> int:
        if count % self.merge:
            raise ConfigError(
                f"model.bridge_config.merge {self.merge} does not divide the {count} tokens of the vision "
                "encoder; set model.vision.class_tokens to false, or another image size"
            )
        return count // self.merge

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, V) -> (B, N / merge, merge * V)."""
        return tokens.float().unflatten(1, (-1, self.merge)).flatten(2)


@registry.register_bridge("mlp")
class MLPBridge(LinearBridge):
    """Linear layers, each followed by GELU, before the projection; as wide as the language model.

    `bridge_mlp` counts layers as LLaVA's ``mm_projector`` does: the linear ones are 0, 2, ...
    """

    config_class: ClassVar[type[BridgeConfig]] = MLPConfig

    def __init__(self, config: MLPConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        layers: list[nn.Module] = []
        for number in range(config.depth - 1):
            layers += [nn.Linear(llm_width if number else self.width, llm_width), nn.GELU()]
        self.bridge_mlp = nn.Sequential(*layers)
        self.width = llm_width

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, V) -> (B, N / merge, D)."""
        joined: Tensor = self.bridge_mlp(super().forward(tokens))
        return joined
