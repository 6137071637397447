"""From the keys of published weight files to the keys of this package. Pure functions of dictionaries."""

import re
from collections.abc import Mapping

from torch import Tensor

TEXT_HALF = (
    r"^Qformer\.cls\.",
    r"^Qformer\.bert\.embeddings\.(word|position)_embeddings\.",
    r"^Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\.",
)
"""Keys of the Q-Former's text half, which a model that feeds it queries only does not build."""

TIED = (r"^Qformer\.cls\.predictions\.decoder\.(weight|bias)$",)
"""Second names of parameters that have another name too; a file need not hold them twice."""

QFORMER_PARTS = ("query_tokens", "Qformer.", "ln_vision.")
"""What a Q-Former weight file is read for; BLIP-2 files hold much more (heads, projections, a ViT)."""

_WRAPPERS = ("module.", "visual_encoder.", "visual.")
_NOT_BUILT = re.compile(r"^(head|norm|fc_norm|lm_head|mask_token)(\.|$)")
_BLOCK = re.compile(r"^blocks\.(\d+)\.")
_QKV_BIAS = ".attn.qkv.bias"


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
        if key.endswith(_QKV_BIAS):
            query_bias, _, value_bias = value.chunk(3)
            prefix = key.removesuffix("qkv.bias")
            translated |= {f"{prefix}q_bias": query_bias, f"{prefix}v_bias": value_bias}
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


def select_qformer_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a BLIP-2, MiniGPT-4 or own checkpoint that make up Q-Former, queries and ln_vision."""
    return {key: value for key, value in state.items() if key.startswith(QFORMER_PARTS)}
