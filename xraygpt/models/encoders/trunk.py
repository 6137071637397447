"""Vision encoders that another library builds: its module is the `trunk`, whose output is made tokens.
Those of timm are here: ``vit_model: timm:NAME``, any model that gives tokens or a map of features.

Shapes: B images, N tokens, V their width.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Self

import timm
import torch
from timm.layers.helpers import to_2tuple
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from xraygpt.common.checkpoint import load_state, load_weights
from xraygpt.common.errors import ConfigError, XrayGPTError
from xraygpt.common.registry import registry
from xraygpt.models.key_translation import unwrapped
from xraygpt.models.parts import EncoderConfig, VisionEncoder
from xraygpt.processors import Preprocessing

BLOCK_LISTS = ("blocks", "layers", "layer", "stages")
"""Names under which timm and transformers keep their blocks."""
_HEADS = re.compile(r"^(head|head_dist|fc|classifier|fc_norm|attn_pool|norm_head)(\.|$)")
"""Keys of what makes one answer of all tokens, which is not built."""


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
        patch, _ = to_2tuple(getattr(sizes, "patch_size", None))
        if patch and side % patch:
            raise ConfigError(
                f"model.vision.img_size {side} is not a multiple of {patch}, the side of a patch of {label}"
            )
        _, count, self.width = self._probe()
        prefix = getattr(trunk, "num_prefix_tokens", None)
        if prefix is None:
            prefix = count - ((side // patch) ** 2 if patch else count)
            prefix = prefix if 0 <= prefix <= 16 else 0  # more are no class and register tokens
        self.dropped = 0 if config.class_tokens else prefix
        self.prefix_tokens = prefix - self.dropped
        self.num_tokens = count - self.dropped

    @classmethod
    def build_trunk(cls, config: Any, name: str, side: int) -> Any:
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

    @property
    def network(self) -> nn.Module:
        return self.trunk

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


@registry.register_vision_encoder("timm")
class TimmEncoder(TrunkEncoder):
    """A model of timm without its head, never downloaded; `vision.args` go to `timm.create_model`."""

    kind = "timm"

    @classmethod
    def check(cls, config: Any, name: str) -> None:
        known = timm.list_models() + timm.list_models(include_tags=True)
        if name not in known:
            near = get_close_matches(name, known, n=5, cutoff=0.3)
            raise ValueError(f"vit_model: timm has no model {name!r}. The nearest names: {', '.join(near)}.")

    @classmethod
    def preprocessing_of(cls, config: Any, name: str) -> Preprocessing:
        cfg: Any = timm.get_pretrained_cfg(name)
        if cfg is None:
            return Preprocessing(config.img_size or 224)
        side = config.img_size or int(cfg.input_size[-1])
        return Preprocessing(side, tuple(cfg.mean), tuple(cfg.std), cfg.interpolation)

    @classmethod
    def build_trunk(cls, config: Any, name: str, side: int) -> Any:
        settings: dict[str, Any] = {"num_classes": 0, **config.args}
        if config.drop_path_rate > 0:  # some models have none
            settings["drop_path_rate"] = config.drop_path_rate
        trunk: Any
        try:
            trunk = timm.create_model(name, pretrained=False, img_size=side, **settings)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            trunk = timm.create_model(name, pretrained=False, **settings)  # takes images of any size
        for head in ("attn_pool", "fc_norm", "head"):  # what makes one answer of all tokens
            if isinstance(getattr(trunk, head, None), nn.Module):
                setattr(trunk, head, nn.Identity())
        if config.use_grad_checkpoint:
            trunk.set_grad_checkpointing()
        return trunk

    def run_trunk(self, image: Tensor) -> Any:
        trunk: Any = self.trunk
        return trunk.forward_features(image)

    def trunk_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of timm, of the projects whose weights timm reads, or of the visual half of an open_clip."""
        state = super().trunk_keys(state)
        convert = getattr(sys.modules[type(self.trunk).__module__], "checkpoint_filter_fn", None)
        if convert is not None and state.keys() != self.trunk.state_dict().keys():
            # It replaces tables of positions by ones that fit, and looks for attributes of a head.
            with torch.no_grad():
                state = convert(state, self.trunk)
        state = unwrapped(state, "visual.trunk.", "visual.")
        return {key: value for key, value in state.items() if not _HEADS.match(key)}
