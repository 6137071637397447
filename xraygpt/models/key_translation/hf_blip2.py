"""Hugging Face's BLIP-2 (`Blip2ForConditionalGeneration`, `Blip2Model`, `Blip2ForImageTextRetrieval`).

The same network under other names. One table serves both directions; only EVA's bias of queries and values
is stored differently (see `qkv_bias`).
"""

import re
from collections.abc import Mapping

from torch import Tensor

from xraygpt.common.errors import CheckpointError
from xraygpt.models.key_translation.qkv_bias import JOINED, QUERY, VALUE, join_bias, split_bias

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

_COMPUTED = re.compile(r".*(\.position_ids|\.rotary_emb\.inv_freq)$")
_UNTOUCHED = re.compile(r"^(vision_model|qformer)\.")


def to_hf_blip2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of `MiniGPT4` or `Blip2Qformer` -> keys of Hugging Face's BLIP-2.

    Tables that follow from the sizes alone are left out.

    Raises:
        CheckpointError: a key has no counterpart there.
    """
    renamed = {_rename(key, _TO_THEIRS): value for key, value in state.items() if not _COMPUTED.match(key)}
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
        if _COMPUTED.match(theirs):
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
