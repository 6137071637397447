"""Files of the vision encoder: ``eva_vit_g.pth``, whole EVA-CLIP models, checkpoints that hold an encoder."""

import re
from collections.abc import Mapping

from torch import Tensor

from xraygpt.models.key_translation.qkv_bias import JOINED, split_bias

_WRAPPERS = ("module.", "visual_encoder.", "visual.")
_NOT_BUILT = re.compile(r"^(head|norm|fc_norm|lm_head|mask_token)(\.|$)")
_BLOCK = re.compile(r"^blocks\.(\d+)\.")


def translate_eva_keys(state: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Keys of an EVA(-CLIP) file -> keys of `VisionTransformer`.

    Takes `eva_vit_g.pth`, a whole EVA-CLIP model (prefix `visual.`), or a checkpoint of BLIP-2, XrayGPT
    or this package (prefix `visual_encoder.`). The classification head and final norm are left out, as are
    blocks from `depth` on (BLIP-2 drops the last block), and a joint `qkv.bias` is split.
    """
    translated: dict[str, Tensor] = {}
    for key, value in _vision_part(state).items():
        block = _BLOCK.match(key)
        if _NOT_BUILT.match(key) or (block and int(block.group(1)) >= depth):
            continue
        if key.endswith(f".attn.{JOINED}"):
            prefix = key.removesuffix(JOINED)
            translated |= {f"{prefix}{name}": bias for name, bias in split_bias(value).items()}
        else:
            translated[key] = value
    return translated


def _vision_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vision encoder's entries, without the prefixes that wrappers put before them."""
    part = dict(state)
    for prefix in _WRAPPERS:
        wrapped = {k.removeprefix(prefix): v for k, v in part.items() if k.startswith(prefix)}
        part = wrapped or part
    return part
