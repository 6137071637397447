"""From the keys of published weight files to the keys of this package, and back; pure functions.

EVA's attention has biases of queries and values; files often hold them joined, with zeros for the keys. A
bias of the keys adds the same number to all scores of a query, which softmax takes away again: whatever
stands in its place has no effect, and leaving it out is exact. Hugging Face's BLIP-2 is the same network
under other names: one table serves both directions.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from xraygpt.common.checkpoint import load_weights
from xraygpt.common.errors import CheckpointError

JOINED = "qkv.bias"
QUERY, VALUE = "q_bias", "v_bias"


def split_bias(joined: Tensor) -> dict[str, Tensor]:
    """``qkv.bias`` (3D,) -> ``q_bias`` and ``v_bias``, (D,) each."""
    query, _, value = joined.chunk(3)
    return {QUERY: query.clone(), VALUE: value.clone()}


def join_bias(query: Tensor, value: Tensor) -> Tensor:
    """``q_bias`` and ``v_bias`` (D,) -> ``qkv.bias`` (3D,), zero for the keys."""
    joined = query.new_zeros(3 * len(query))
    joined[: len(query)] = query
    joined[-len(value) :] = value
    return joined


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
    for key, value in unwrapped(state, *_WRAPPERS).items():
        block = _BLOCK.match(key)
        if _NOT_BUILT.match(key) or (block and int(block.group(1)) >= depth):
            continue
        if key.endswith(f".attn.{JOINED}"):
            prefix = key.removesuffix(JOINED)
            translated |= {f"{prefix}{name}": bias for name, bias in split_bias(value).items()}
        else:
            translated[key] = value
    return translated


def unwrapped(state: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """For each prefix in turn: if keys begin with it, these entries alone, without it."""
    part = dict(state)
    for prefix in prefixes:
        wrapped = {k.removeprefix(prefix): v for k, v in part.items() if k.startswith(prefix)}
        part = wrapped or part
    return part


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


def select_qformer_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a BLIP-2, MiniGPT-4 or own checkpoint that make up Q-Former, queries and ln_vision."""
    return {key: value for key, value in state.items() if key.startswith(QFORMER_PARTS)}


HF_LANGUAGE_MODEL = "language_model."
"""What the keys of the text model begin with there."""

_OURS_THEIRS = (
    ("query_tokens", "query_tokens"),
    ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
    ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
    ("visual_encoder.patch_embed.proj.", "vision_model.embeddings.patch_embedding."),
    ("visual_encoder.blocks.#.norm1.", "vision_model.encoder.layers.#.layer_norm1."),
    ("visual_encoder.blocks.#.norm2.", "vision_model.encoder.layers.#.layer_norm2."),
    ("visual_encoder.blocks.#.attn.qkv.", "vision_model.encoder.layers.#.self_attn.qkv."),
    ("visual_encoder.blocks.#.attn.proj.", "vision_model.encoder.layers.#.self_attn.projection."),
    ("visual_encoder.blocks.#.mlp.", "vision_model.encoder.layers.#.mlp."),
    ("ln_vision.", "vision_model.post_layernorm."),
    ("Qformer.bert.embeddings.LayerNorm.", "qformer.layernorm."),
    ("Qformer.bert.embeddings.word_embeddings.", "embeddings.word_embeddings."),
    ("Qformer.bert.embeddings.position_embeddings.", "embeddings.position_embeddings."),
    ("Qformer.bert.encoder.layer.#.attention.self.", "qformer.encoder.layer.#.attention.attention."),
    (
        "Qformer.bert.encoder.layer.#.crossattention.self.",
        "qformer.encoder.layer.#.crossattention.attention.",
    ),
    ("Qformer.bert.encoder.layer.#.", "qformer.encoder.layer.#."),
    ("vision_proj.", "vision_projection."),
    ("text_proj.", "text_projection."),
    ("itm_head.", "itm_head."),
    ("llama_proj.", "language_projection."),
    ("llama_model.", HF_LANGUAGE_MODEL),
)
"""Beginnings of keys here and there, ``#`` for the number of a layer; the first that fits counts."""

COMPUTED = re.compile(r".*(\.position_ids|\.rotary_emb\.inv_freq)$")
"""Tables that follow from the sizes alone."""
_UNTOUCHED = re.compile(r"^(vision_model|qformer)\.")


def load_image_half(path: Path) -> dict[str, Tensor]:
    """The weights in a file or folder, by the keys of this package, without those of a language model."""
    return from_hf_blip2(load_weights(path, skip=(HF_LANGUAGE_MODEL,)))


def to_hf_blip2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of `MiniGPT4` or `Blip2Qformer` -> keys of Hugging Face's BLIP-2.

    Tables that follow from the sizes alone are left out.

    Raises:
        CheckpointError: a key has no counterpart there.
    """
    renamed = {_rename(key, _TO_THEIRS): value for key, value in state.items() if not COMPUTED.match(key)}
    for key in [key for key in renamed if key.endswith(f".qkv.{QUERY}")]:
        prefix = key.removesuffix(QUERY)
        joined = join_bias(renamed.pop(key), renamed.pop(prefix + VALUE))
        renamed[prefix.removesuffix("qkv.") + JOINED] = joined
    return renamed


def from_hf_blip2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of Hugging Face's BLIP-2 -> keys of this package; a file of any other kind is returned as it is.

    Raises:
        CheckpointError: it is a BLIP-2 of theirs, but a key has no counterpart here.
    """
    if not any(_UNTOUCHED.match(key) for key in state):
        return dict(state)
    translated: dict[str, Tensor] = {}
    for theirs, value in state.items():
        if COMPUTED.match(theirs):
            continue
        key = _rename(theirs, _TO_OURS)
        if key.endswith(f".attn.{JOINED}"):
            prefix = key.removesuffix(JOINED)
            translated |= {f"{prefix}{name}": bias for name, bias in split_bias(value).items()}
        else:
            translated[key] = value
    return translated


def _rename(key: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in rules:
        if pattern.match(key):
            return pattern.sub(replacement, key, count=1)
    raise CheckpointError(f"{key}: a key that BLIP-2 has no counterpart of, here or at Hugging Face")


def _rule(source: str, target: str) -> tuple[re.Pattern[str], str]:
    return re.compile("^" + re.escape(source).replace(r"\#", r"(\d+)")), target.replace("#", r"\1")


# q_bias and v_bias stand beside qkv here and are parts of qkv.bias there.
_BIASES = [
    (f"visual_encoder.blocks.#.attn.{name}", f"vision_model.encoder.layers.#.self_attn.qkv.{name}")
    for name in (QUERY, VALUE)
]
_TO_THEIRS = [_rule(ours, theirs) for ours, theirs in (*_BIASES, *_OURS_THEIRS)]
_TO_OURS = [_rule(theirs, ours) for ours, theirs in _OURS_THEIRS]


_PROJECTOR = re.compile(
    r"^(?:model\.)?(?:mm_projector|multi_modal_projector)\.(?:layers\.)?(.+\.)?(weight|bias)$"
)
"""LLaVA's projector as LLaVA, Hugging Face and MAIRA-2 call it."""
_HF_LINEARS = {"linear_1.": 0, "linear_2.": 2}


def translate_projector_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of a LLaVA-family projector -> ``bridge_mlp.*`` and ``llama_proj.*``; others stay as they are.

    ``mm_projector.0`` and ``.2`` of ``mlp2x_gelu`` are Hugging Face's ``linear_1`` and ``linear_2``; a linear
    projector has no number. The last linear layer is the projection. A file with such keys is read for
    them alone, since it holds a language model too.
    """
    found: dict[str, tuple[int, str]] = {}
    for key in state:
        if match := _PROJECTOR.match(key):
            layer = match[1] or "0."
            number = _HF_LINEARS[layer] if layer in _HF_LINEARS else int(layer.rstrip("."))
            found[key] = number, match[2]
    if not found:
        return dict(state)
    last = max(number for number, _ in found.values())
    return {
        f"llama_proj.{kind}" if number == last else f"bridge_mlp.{number}.{kind}": state[key]
        for key, (number, kind) in found.items()
    }
