"""``vit_model: timm:NAME``: any model of timm that gives tokens or a map of features. No downloads."""

from __future__ import annotations

import re
import sys
from difflib import get_close_matches
from typing import Any, Self

import torch
from torch import Tensor, nn

from xraygpt.common.registry import registry
from xraygpt.models.encoders.trunk import TrunkEncoder, building, three
from xraygpt.processors import Preprocessing

_HEADS = re.compile(r"^(head|head_dist|fc|classifier|fc_norm|attn_pool|norm_head)(\.|$)")
"""Keys of what makes one answer of all tokens, which is not built."""
_OPEN_CLIP = ("visual.trunk.", "visual.")


@registry.register_vision_encoder("timm")
class TimmEncoder(TrunkEncoder):
    """A model of timm without its head; `vision.args` go to `timm.create_model`."""

    @classmethod
    def check(cls, config: Any, name: str) -> None:
        import timm

        architecture = name.partition(".")[0]
        if not timm.is_model(architecture):
            near = get_close_matches(name, timm.list_models(), n=5, cutoff=0.3)
            raise ValueError(f"vit_model: timm has no model {name!r}. The nearest names: {', '.join(near)}.")

    @classmethod
    def preprocessing_of(cls, config: Any, name: str) -> Preprocessing:
        import timm

        cfg = timm.get_pretrained_cfg(name)
        if cfg is None:
            return Preprocessing(config.img_size or 224)
        side = config.img_size or int(cfg.input_size[-1])
        return Preprocessing(side, three(cfg.mean), three(cfg.std), cfg.interpolation)

    @classmethod
    def from_config(cls, config: Any, name: str) -> Self:
        """Build it with random weights, at `config.img_size` where the model has one size only."""
        import timm

        preprocessing = cls.preprocessing_of(config, name)
        side = preprocessing.image_size
        settings: dict[str, Any] = {"num_classes": 0, **config.args}
        if config.drop_path_rate > 0:  # some models have none
            settings["drop_path_rate"] = config.drop_path_rate
        trunk: Any
        with building(f"timm:{name}"):
            try:
                trunk = timm.create_model(name, pretrained=False, img_size=side, **settings)
            except TypeError as error:
                if "img_size" not in str(error):
                    raise
                trunk = timm.create_model(name, pretrained=False, **settings)  # takes images of any size
            _drop_head(trunk)
            if config.use_grad_checkpoint:
                trunk.set_grad_checkpointing()
        patch = getattr(getattr(trunk, "patch_embed", None), "patch_size", None)
        return cls(
            trunk,
            config,
            preprocessing,
            f"timm:{name}",
            patch_size=patch[0] if isinstance(patch, tuple) else patch,
            prefix_tokens=int(getattr(trunk, "num_prefix_tokens", 0)),
        )

    def run_trunk(self, image: Tensor) -> Tensor:
        trunk: Any = self.trunk
        features: Tensor = trunk.forward_features(image)
        return features

    def trunk_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of timm, of the projects whose weights timm reads, or of the visual half of an open_clip."""
        convert = getattr(sys.modules[type(self.trunk).__module__], "checkpoint_filter_fn", None)
        if convert is not None and state.keys() != self.trunk.state_dict().keys():
            # It replaces tables of positions by ones that fit, and looks for attributes of a head.
            with torch.no_grad():
                state = convert(dict(state), self.trunk)
        for prefix in _OPEN_CLIP:
            inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            state = inner or state
        return {key: value for key, value in state.items() if not _HEADS.match(key)}


def _drop_head(trunk: nn.Module) -> None:
    """Take away what makes one answer of all tokens, so that nothing is left over from the tokens' way."""
    for name in ("attn_pool", "fc_norm", "head"):
        if isinstance(getattr(trunk, name, None), nn.Module):
            setattr(trunk, name, nn.Identity())
