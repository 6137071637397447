"""Sizes of a model, as Hugging Face's BLIP-2 states them and as this package does."""

from typing import Any

from transformers import Blip2Config, PreTrainedConfig, PreTrainedTokenizerBase

from xraygpt.common.errors import ConfigError
from xraygpt.models.mini_gpt4 import MiniGPT4

VISION_EPS = 1e-6
"""Of all norms of the vision encoder there. Here the one behind it, ln_vision, has 1e-5 (see `to_hf`)."""

VISION_SIZES = {
    "patch_size": "patch_size",
    "embed_dim": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "qkv_bias": "qkv_bias",
}
"""Name here -> name there, for both directions."""
QFORMER_SIZES = {
    "cross_attention_freq": "cross_attention_frequency",
    **{
        name: name
        for name in (
            *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
            *("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob"),
            *("max_position_embeddings", "layer_norm_eps"),
        )
    },
}


def blip2_config(
    model: MiniGPT4, image_token_id: int, rows: int, tokenizer: PreTrainedTokenizerBase
) -> Blip2Config:
    """The configuration of the same network there.

    Args:
        image_token_id: of the token that stands for an image embedding.
        rows: of the embedding table, that token's included.

    Raises:
        ConfigError: the model has something that BLIP-2 there has not; all of it is named.
    """
    _check_supported(model)
    vision, qformer = model.config.vision_config(), model.config.qformer
    settings: dict[str, Any] = {
        "vision_config": {
            **{theirs: getattr(vision, ours) for ours, theirs in VISION_SIZES.items()},
            "image_size": vision.img_size,
            "intermediate_size": len(model.visual_encoder.get_parameter("blocks.0.mlp.fc1.bias")),
            "layer_norm_eps": VISION_EPS,
        },
        "qformer_config": {theirs: getattr(qformer, ours) for ours, theirs in QFORMER_SIZES.items()},
        "text_config": _text_config(model.llama_model.config, rows, tokenizer),
        "num_query_tokens": model.config.num_query_token,
        "image_token_index": image_token_id,
        "tie_word_embeddings": bool(model.llama_model.config.tie_word_embeddings),
    }
    return Blip2Config(**settings)


def model_section(config: Blip2Config) -> dict[str, Any]:
    """The keys of the section ``model`` that state the sizes of a BLIP-2 from there.

    Raises:
        ConfigError: an activation that this package's vision encoder has not.
    """
    vision: Any = config.vision_config
    qformer: Any = config.qformer_config
    if vision.hidden_act != "gelu":
        raise ConfigError(f"vision_config.hidden_act is {vision.hidden_act!r}; EVA's vision encoder has gelu")
    return {
        "image_size": vision.image_size,
        "vision": {
            **{ours: getattr(vision, theirs) for ours, theirs in VISION_SIZES.items()},
            # Half a unit more, so that the width is the same after rounding down.
            "mlp_ratio": round((vision.intermediate_size + 0.5) / vision.hidden_size, 6),
        },
        "num_query_token": config.num_query_tokens,
        "qformer": {ours: getattr(qformer, theirs) for ours, theirs in QFORMER_SIZES.items()},
    }


def _text_config(config: PreTrainedConfig, rows: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    return {**config.to_dict(), "vocab_size": rows, **special}


def _check_supported(model: MiniGPT4) -> None:
    vision, qformer = model.config.vision_config(), model.config.qformer
    problems = [
        f"model.{key}: {what}, which BLIP-2 of Hugging Face has not"
        for key, what, present in (
            ("vision.use_abs_pos_emb", "no embedding of positions", not vision.use_abs_pos_emb),
            ("vision.use_rel_pos_bias", "relative position bias", vision.use_rel_pos_bias),
            ("vision.use_shared_rel_pos_bias", "relative position bias", vision.use_shared_rel_pos_bias),
            ("vision.init_values", "layer scale", vision.init_values is not None),
            ("vision.in_chans", f"{vision.in_chans} image channels", vision.in_chans != 3),
            (
                "qformer.position_embedding_type",
                f"positions of type {qformer.position_embedding_type}",
                qformer.position_embedding_type != "absolute",
            ),
        )
        if present
    ]
    if problems:
        raise ConfigError(problems)
