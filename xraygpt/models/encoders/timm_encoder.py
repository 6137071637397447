"""``vit_model: timm:NAME``: any model of timm that gives tokens or a map of features. No downloads."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import timm
import torch
from torch import Tensor, nn

from xraygpt.common.registry import registry
from xraygpt.models.encoders.trunk import TrunkEncoder
from xraygpt.models.key_translation import unwrapped
from xraygpt.processors import Preprocessing

_HEADS = re.compile(r"^(head|head_dist|fc|classifier|fc_norm|attn_pool|norm_head)(\.|$)")
"""Keys of what makes one answer of all tokens, which is not built."""


@registry.register_vision_encoder("timm")
class TimmEncoder(TrunkEncoder):
    """A model of timm without its head; `vision.args` go to `timm.create_model`."""

    kind = "timm"

    @classmethod
    def check(cls, config: Any, name: str) -> None:
        if not timm.is_model(name.partition(".")[0]):
            near = get_close_matches(name, timm.list_models(), n=5, cutoff=0.3)
            raise ValueError(f"vit_model: timm has no model {name!r}. The nearest names: {', '.join(near)}.")

    @classmethod
    def preprocessing_of(cls, config: Any, name: str) -> Preprocessing:
        cfg: Any = timm.get_pretrained_cfg(name)
        if cfg is None:
            return Preprocessing(config.img_size or 224)
        side = config.img_size or int(cfg.input_size[-1])
        return Preprocessing(side, tuple(cfg.mean), tuple(cfg.std), cfg.interpolation)

    @classmethod
    def build_trunk(cls, config: Any, name: str, side: int) -> nn.Module:
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
        built: nn.Module = trunk
        return built

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
