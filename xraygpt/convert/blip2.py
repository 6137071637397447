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
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from xraygpt.common.errors import ConfigError
from xraygpt.convert.hf_tokenizer import image_token_id
from xraygpt.models.key_translation import to_hf_blip2
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.models.vision_tower import EVA_CLIP_G

VISION_SIZES = {
    "patch_size": "patch_size",
    "embed_dim": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "qkv_bias": "qkv_bias",
}
"""Name here -> name there, for both directions."""
QFORMER_SIZES = {"cross_attention_freq": "cross_attention_frequency"} | {
    name: name
    for name in (
        *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
        *("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob"),
        *("max_position_embeddings", "layer_norm_eps"),
    )
}
REQUIRED: dict[str, tuple[Any, str]] = {
    "vision.use_abs_pos_emb": (True, "no embedding of positions"),
    "vision.use_rel_pos_bias": (False, "relative position bias"),
    "vision.use_shared_rel_pos_bias": (False, "relative position bias"),
    "vision.init_values": (None, "layer scale"),
    "vision.in_chans": (3, "{} image channels"),
    "qformer.position_embedding_type": ("absolute", "positions of type {}"),
}
"""Key of the section ``model`` -> the only value that can be said there, and what another one means."""


class Blip2:
    """`Blip2ForConditionalGeneration` with a decoder as its text model."""

    model_class: ClassVar[Any] = Blip2ForConditionalGeneration
    processor_class: ClassVar[Any] = Blip2Processor
    expands: ClassVar[bool] = False
    """Whether the processor makes one image token of a text as many as there are embeddings."""
    card_note: ClassVar[str] = (
        "What the language model gets of an image differs from the original implementation by "
        "{embeddings:.1e}: the norm behind the vision encoder was trained with eps 1e-5, which this format "
        "cannot say. `model.vision_model.post_layernorm.eps = 1e-5` after loading restores it."
    )
    """What is said of a difference, in the model card and, where it is large, in the log."""

    def write(
        self, model: MiniGPT4, text: Mapping[str, Any], images: Mapping[str, Any], tokenizer: Any
    ) -> tuple[Any, dict[str, Tensor], Any]:
        """Configuration, weights by the keys there, and processor of the same network there.

        Args:
            text: the configuration of its language model.
            images: settings of the image processor.
            tokenizer: with the image token.

        Raises:
            ConfigError: the model has something that the network there has not; all of it is named.
        """
        _check_supported(model)
        vision, qformer = model.config.vision, model.config.qformer
        settings: dict[str, Any] = {
            "vision_config": {
                **{theirs: getattr(vision, ours) for ours, theirs in VISION_SIZES.items()},
                "image_size": vision.img_size,
                "intermediate_size": len(model.visual_encoder.get_parameter("blocks.0.mlp.fc1.bias")),
                "layer_norm_eps": 1e-6,
            },
            "qformer_config": {theirs: getattr(qformer, ours) for ours, theirs in QFORMER_SIZES.items()},
            "text_config": text,
            "num_query_tokens": model.config.num_query_token,
            "image_token_index": image_token_id(tokenizer),
            "tie_word_embeddings": text["tie_word_embeddings"],
        }
        # Its num_query_tokens stays unset: with it, the image would go before BOS and all text.
        processor = Blip2Processor(BlipImageProcessorPil(**images), tokenizer)
        return Blip2Config(**settings), to_hf_blip2(model.state_dict()), processor

    def align(self, theirs: Any) -> None:
        """Set in a model there what its configuration cannot say."""
        theirs.vision_model.post_layernorm.eps = 1e-5

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


def _check_supported(model: MiniGPT4) -> None:
    name = model.config.vit_model
    problems = [] if name == EVA_CLIP_G else [f"vit_model: {name}"]
    parts = {"vision": model.config.vision, "qformer": model.config.qformer}
    for key, (value, what) in REQUIRED.items() if not problems else ():
        part, _, field = key.partition(".")
        own = getattr(parts[part], field)
        if own != value:
            problems.append(f"{key}: {what.format(own)}")
    if problems:
        raise ConfigError([f"model.{line}, which BLIP-2 of Hugging Face has not" for line in problems])
