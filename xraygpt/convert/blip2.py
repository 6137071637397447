"""`MiniGPT4` with a Q-Former as Hugging Face's BLIP-2, and back.

The two are one network, with one difference that a folder cannot express: the norm behind the vision encoder
(ln_vision) has eps 1e-5 here, as in the reference, while `Blip2VisionConfig` has one eps for all norms of the
encoder, and the others have 1e-6 in both. The sum of variance and eps differs by 9e-6 then, which changes the
output by 4.5e-6 divided by the variance (10 to 100 in the tiny model): a few units in the last place of
float32. Every export measures what is left of it in the embeddings that the language model gets.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from xraygpt.common.errors import ConfigError
from xraygpt.models.key_translation import HF_LANGUAGE_MODEL, from_hf_blip2, to_hf_blip2
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.models.vision_tower import EVA_CLIP_G

VISION_EPS = 1e-6
"""Of all norms of the vision encoder there."""
OWN_EPS = 1e-5
"""Of the norm behind it here."""

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


class Blip2:
    """`Blip2ForConditionalGeneration` with a decoder as its text model.

    The methods up to `align` say how a model is written, the others how a folder is read.
    """

    model_class: ClassVar[Any] = Blip2ForConditionalGeneration
    processor_class: ClassVar[Any] = Blip2Processor
    language_keys: ClassVar[tuple[str, ...]] = (HF_LANGUAGE_MODEL,)
    """Beginnings of the keys of the language model's weights in a folder."""
    vision_keys: ClassVar[tuple[str, ...]] = ()
    """The same of the vision encoder, if it becomes a folder of its own here."""
    card_note: ClassVar[str] = (
        "What the language model gets of an image differs from the original implementation by "
        "{embeddings:.1e}: the norm behind the vision encoder was trained with eps 1e-5, which this format "
        "cannot say. `model.vision_model.post_layernorm.eps = 1e-5` after loading restores it."
    )
    """What is said of a difference, in the model card and, where it is large, in the log."""

    def slots(self, model: MiniGPT4) -> int:
        """How often the text for the processor holds the image token."""
        return model.tokens_per_image

    def config(self, model: MiniGPT4, text: Mapping[str, Any], image_token_id: int) -> Blip2Config:
        """The configuration of the same network there; `text` is that of its language model.

        Raises:
            ConfigError: the model has something that the network there has not; all of it is named.
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
            "text_config": text,
            "num_query_tokens": model.config.num_query_token,
            "image_token_index": image_token_id,
            "tie_word_embeddings": bool(model.llama_model.config.tie_word_embeddings),
        }
        return Blip2Config(**settings)

    def state(self, model: MiniGPT4) -> dict[str, Tensor]:
        """The weights by the keys there."""
        return to_hf_blip2(model.state_dict())

    def processor(
        self, model: MiniGPT4, images: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
    ) -> Blip2Processor:
        """Image processor, with the settings `images`, and tokenizer as one.

        Its `num_query_tokens` stays unset: with it, the image would go before BOS and all text.
        """
        return Blip2Processor(BlipImageProcessorPil(**images), tokenizer)

    def align(self, theirs: Any) -> None:
        """Set in a model there what its configuration cannot say."""
        theirs.vision_model.post_layernorm.eps = OWN_EPS

    def section(self, config: Any) -> dict[str, Any]:
        """The keys of the section ``model`` that build the parts of such a network.

        Raises:
            ConfigError: it has something that this package has not.
        """
        vision, qformer = config.vision_config, config.qformer_config
        if vision.hidden_act != "gelu":
            raise ConfigError(
                f"vision_config.hidden_act is {vision.hidden_act!r}; EVA's vision encoder has gelu"
            )
        return {
            "vision": {
                **{ours: getattr(vision, theirs) for ours, theirs in VISION_SIZES.items()},
                # Half a unit more, so that the width is the same after rounding down.
                "mlp_ratio": round((vision.intermediate_size + 0.5) / vision.hidden_size, 6),
            },
            "num_query_token": config.num_query_tokens,
            "qformer": {ours: getattr(qformer, theirs) for ours, theirs in QFORMER_SIZES.items()},
        }

    def own_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a folder, without the parts that become folders, by the keys of this package."""
        return from_hf_blip2(state)

    def language_state(self, state: Mapping[str, Tensor], llm: PreTrainedModel) -> dict[str, Tensor]:
        """The weights of a folder's language model by the keys of `llm`, which may be empty."""
        return {key.removeprefix(HF_LANGUAGE_MODEL): value for key, value in state.items()}


def _check_supported(model: MiniGPT4) -> None:
    if model.config.vit_model != EVA_CLIP_G:
        raise ConfigError(
            f"model.vit_model: {model.config.vit_model}, which BLIP-2 of Hugging Face has not; its vision "
            f"encoder is {EVA_CLIP_G}"
        )
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
