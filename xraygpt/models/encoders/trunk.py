"""Vision encoders that another library builds: its module is the `trunk`, whose output is made tokens.

Shapes: B images, N tokens, V their width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from xraygpt.common.checkpoint import load_state, load_weights
from xraygpt.common.errors import ConfigError, XrayGPTError
from xraygpt.models.key_translation import unwrapped
from xraygpt.models.parts import EncoderConfig, VisionEncoder
from xraygpt.processors import Preprocessing

BLOCK_LISTS = ("blocks", "layers", "layer", "stages")
"""Names under which timm and transformers keep their blocks."""
MAX_PREFIX = 16
"""More tokens than this in front of the patches are no class and register tokens."""


@dataclass
class TrunkConfig(EncoderConfig):
    """Settings of an encoder of another library."""

    args: dict[str, Any] = field(default_factory=dict)
    """What to build otherwise than the library would, e.g. {depth: 4, embed_dim: 128}."""


class TrunkEncoder(VisionEncoder):
    """An encoder around `trunk`; its keys are the trunk's behind ``trunk.``.

    Args:
        trunk: image (B, 3, height, width) -> what `tokens_of` understands.
        label: how messages call it, e.g. "timm:vit_base_patch16_224".

    Raises:
        ConfigError: it gives no tokens, or takes no images of this size.
    """

    config_class = TrunkConfig
    kind: ClassVar[str]
    """The name that it is registered by."""

    def __init__(
        self, trunk: nn.Module, config: EncoderConfig, preprocessing: Preprocessing, label: str
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.preprocessing = preprocessing
        self.layer = config.layer
        self.label = self.identity = label
        if config.layer is not None and not -len(self.layers()) <= config.layer < len(self.layers()):
            raise ConfigError(f"model.vision.layer {config.layer}: {label} has {len(self.layers())} blocks")
        side = preprocessing.image_size
        sizes = getattr(trunk, "config", None) or getattr(trunk, "patch_embed", None)
        patch = first(getattr(sizes, "patch_size", None))
        if patch and side % patch:
            raise ConfigError(
                f"model.vision.img_size {side} is not a multiple of {patch}, the side of a patch of {label}"
            )
        _, count, self.width = self._probe()
        prefix = getattr(trunk, "num_prefix_tokens", None)
        if prefix is None:
            prefix = count - ((side // patch) ** 2 if patch else count)
            prefix = prefix if 0 <= prefix <= MAX_PREFIX else 0
        self.dropped = 0 if config.class_tokens else prefix
        self.prefix_tokens = prefix - self.dropped
        self.num_tokens = count - self.dropped

    @classmethod
    def build_trunk(cls, config: Any, name: str, side: int) -> nn.Module:
        """The library's module with random weights, for images of `side` pixels."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: Any, name: str) -> Self:
        preprocessing = cls.preprocessing_of(config, name)
        label = f"{cls.kind}:{name}" if name else cls.kind
        try:
            trunk = cls.build_trunk(config, name, preprocessing.image_size)
        except XrayGPTError:
            raise
        except Exception as error:  # libraries refuse sizes with errors of whatever kind
            reason = str(error) or type(error).__name__
            raise ConfigError(f"model.vision.args: {label} cannot be built so: {reason}") from error
        return cls(trunk, config, preprocessing, label)

    def run_trunk(self, image: Tensor) -> Any:
        """The trunk's own output for images."""
        raise NotImplementedError

    def layers(self) -> Sequence[nn.Module]:
        for name, module in self.trunk.named_modules():
            is_list = isinstance(module, nn.ModuleList | nn.Sequential)
            if is_list and name.rpartition(".")[2] in BLOCK_LISTS:
                return list(module.children())
        raise ConfigError(f"model.vit_model: {self.label} has no blocks that its layers could be told from")

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, N, V)."""
        self.check_image(image)
        return self._all_tokens(image)[:, self.dropped :]

    def _all_tokens(self, image: Tensor) -> Tensor:
        if self.layer is None:
            return self.tokens_of(self.run_trunk(image))
        seen: list[Any] = []
        handle = self.layers()[self.layer].register_forward_hook(lambda *call: seen.append(call[2]))
        try:
            self.run_trunk(image)
        finally:
            handle.remove()
        return self.tokens_of(seen[0])

    def tokens_of(self, output: Any) -> Tensor:
        """An output of the trunk or of a block: tokens (B, N, V), or a map, (B, V, h, w) or (B, h, w, V)."""
        output = output[0] if isinstance(output, tuple) else output
        output = getattr(output, "last_hidden_state", output)
        if not isinstance(output, Tensor) or output.dim() not in (3, 4):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ConfigError(f"model.vit_model: {self.label} gives no tokens, but {shape}")
        if output.dim() == 3:
            return output
        channels_last = getattr(self.trunk, "output_fmt", "") == "NHWC"
        return output.flatten(1, 2) if channels_last else output.flatten(2).transpose(1, 2)

    def _probe(self) -> torch.Size:
        """The shape of the tokens of one image, found without computing them."""
        side = self.preprocessing.image_size
        training = self.trunk.training
        self.trunk.eval()
        try:
            with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
                return self._all_tokens(torch.zeros(1, 3, side, side)).shape
        except ConfigError:
            raise
        except Exception as error:  # of whatever kind the trunk's modules raise
            raise ConfigError(
                f"model.vision.img_size: {self.label} takes no images of {side}x{side} pixels: {error}"
            ) from error
        finally:
            self.trunk.train(training)

    def load(self, path: Path) -> None:
        self.load_trunk(self.trunk_keys(load_weights(path)), str(path))

    def trunk_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys as the library publishes them, or of a checkpoint of this package -> keys of the trunk."""
        return unwrapped(state, "module.", "visual_encoder.", "trunk.")

    def load_trunk(self, state: Mapping[str, Tensor], where: str) -> None:
        """Copy `state`, read from `where`, into the trunk; raises CheckpointError if it does not fit."""
        load_state(self.trunk, state, where=where)

    def published_state(self) -> dict[str, Tensor]:
        return self.trunk.state_dict()


def first(value: Any) -> Any:
    """One side of a square that is given as a number or as a pair."""
    return value[0] if isinstance(value, list | tuple) else value
