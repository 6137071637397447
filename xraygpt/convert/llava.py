"""`MiniGPT4` with an MLP bridge as Hugging Face's LLaVA, and back: the same network, without exception."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from xraygpt.common.errors import ConfigError
from xraygpt.convert.hf_tokenizer import chat_template
from xraygpt.models.bridges.mlp import MLPConfig
from xraygpt.models.encoders.hf_encoder import HFEncoder
from xraygpt.models.key_translation import from_hf_llava_language, to_hf_llava, translate_projector_keys
from xraygpt.models.mini_gpt4 import MiniGPT4


class Llava:
    """`LlavaForConditionalGeneration`; methods and attributes as in `Blip2`."""

    model_class: ClassVar[Any] = LlavaForConditionalGeneration
    processor_class: ClassVar[Any] = LlavaProcessor
    language_keys: ClassVar[tuple[str, ...]] = ("language_model.", "model.language_model.", "lm_head.")
    vision_keys: ClassVar[tuple[str, ...]] = ("vision_tower.", "model.vision_tower.")
    card_note: ClassVar[str] = ""

    def slots(self, model: MiniGPT4) -> int:
        return 1

    def config(self, model: MiniGPT4, text: Mapping[str, Any], image_token_id: int) -> LlavaConfig:
        encoder, llm = _checked_encoder(model), model.llama_model
        vision = encoder.trunk.config.to_dict()
        if encoder.resizes:
            vision["image_size"] = encoder.preprocessing.image_size
        # LLaVA ties the output layer to embeddings of this name only; to others, it is written beside them.
        table = f"{llm.base_model_prefix}.embed_tokens.weight"
        tied = bool(llm.config.tie_word_embeddings) and table in dict(llm.named_parameters())
        settings: dict[str, Any] = {
            "vision_config": vision,
            "text_config": {**text, "tie_word_embeddings": tied},
            "image_token_index": image_token_id,
            "image_seq_length": model.tokens_per_image,
            "projector_hidden_act": "gelu",
            "vision_feature_layer": _feature_layer(encoder),
            "vision_feature_select_strategy": _strategy(encoder),
            "tie_word_embeddings": tied,
        }
        return LlavaConfig(**settings)

    def state(self, model: MiniGPT4) -> dict[str, Tensor]:
        encoder, llm = _checked_encoder(model), model.llama_model
        state = model.state_dict() | _positions(encoder)
        return to_hf_llava(state, llm.base_model_prefix, _head_key(llm))

    def processor(
        self, model: MiniGPT4, images: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
    ) -> LlavaProcessor:
        encoder = _checked_encoder(model)
        return LlavaProcessor(
            CLIPImageProcessorPil(**images, crop_size=images["size"], do_center_crop=False),
            tokenizer,
            patch_size=_patch_size(encoder),
            vision_feature_select_strategy=_strategy(encoder),
            num_additional_image_tokens=encoder.prefix_tokens + encoder.dropped,
            chat_template=chat_template(model),
        )

    def align(self, theirs: Any) -> None:
        if hasattr(theirs.model.vision_tower, "pooler"):
            theirs.model.vision_tower.pooler = None  # makes one answer of all tokens; `HFEncoder` has none

    def section(self, config: Any) -> dict[str, Any]:
        layer = config.vision_feature_layer
        for key, usable, what in (
            ("projector_hidden_act", config.projector_hidden_act == "gelu", "the bridge mlp has gelu"),
            ("multimodal_projector_bias", config.multimodal_projector_bias, "the bridge mlp has biases"),
            ("vision_feature_layer", isinstance(layer, int) and layer, "one block's output is read here"),
        ):
            if not usable:
                raise ConfigError(f"config.json: {key} is {getattr(config, key)!r}; {what}")
        full = config.vision_feature_select_strategy == "full"
        return {
            "vision": {"layer": layer - 1 if layer > 0 else layer, "class_tokens": full},
            "bridge": "mlp",
        }

    def own_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return translate_projector_keys(state)

    def language_state(self, state: Mapping[str, Tensor], llm: PreTrainedModel) -> dict[str, Tensor]:
        return from_hf_llava_language(state, llm.base_model_prefix, _head_key(llm))


def _checked_encoder(model: MiniGPT4) -> HFEncoder:
    """The vision encoder; raises ConfigError that names all parts of the model that LLaVA has not."""
    encoder, config = model.visual_encoder, model.config
    problems = []
    settings = config.bridge_config
    if config.bridge != "mlp":
        problems.append(f"model.bridge: {config.bridge}; its projector is the bridge mlp")
    elif isinstance(settings, MLPConfig) and (settings.depth, settings.merge) != (2, 1):
        problems.append(
            f"model.bridge_config: depth {settings.depth} and merge {settings.merge}; its projector has "
            "depth 2 and merge 1"
        )
    if not isinstance(encoder, HFEncoder):
        problems.append(
            f"model.vit_model: {config.vit_model}; its vision encoder is a model of transformers, hf:…"
        )
    else:
        grid, prefix = encoder.preprocessing.image_size // (_patch_size(encoder) or 1), encoder.prefix_tokens
        if not _patch_size(encoder) or encoder.num_tokens - prefix != grid**2:
            problems.append(f"model.vit_model: {encoder.label}, whose tokens are not one for each patch")
        if encoder.dropped > 1:
            problems.append(
                f"model.vision.class_tokens: false; of the {encoder.dropped} class and register tokens of "
                f"{encoder.label} it leaves out the first only"
            )
    if (head := model.llama_model.get_output_embeddings()) is None or getattr(head, "bias", None) is not None:
        problems.append("model.llama_model: a bias in the output layer")
    if problems or not isinstance(encoder, HFEncoder):
        raise ConfigError([f"LLaVA of Hugging Face has not what this model has, {line}" for line in problems])
    return encoder


def _patch_size(encoder: HFEncoder) -> int | None:
    size = getattr(encoder.trunk.config, "patch_size", None)
    return size if isinstance(size, int) else None


def _strategy(encoder: HFEncoder) -> str:
    return "default" if encoder.dropped else "full"


@torch.no_grad()
def _feature_layer(encoder: HFEncoder) -> int:
    """Which of the trunk's hidden states the encoder gives, counted from the last, -1.

    Raises:
        ConfigError: none: a norm follows.
    """
    side, trunk = encoder.preprocessing.image_size, encoder.trunk
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    image = image.to(trunk.device, trunk.dtype)
    own = encoder(image)
    states = trunk(pixel_values=image, output_hidden_states=True, **encoder.resizes).hidden_states
    for number in range(-1, -len(states), -1):
        if torch.allclose(states[number][:, encoder.dropped :], own):
            return number
    raise ConfigError(
        f"model.vision.layer is {encoder.layer}: LLaVA of Hugging Face takes the tokens behind a block, and "
        f"{encoder.label} normalises its output once more; only a model trained with a layer, such as -1 or "
        "-2, can be written"
    )


def _positions(encoder: HFEncoder) -> dict[str, Tensor]:
    """The position embeddings for the images of this model, which LLaVA does not resize by itself."""
    side = encoder.preprocessing.image_size
    for name, module in encoder.trunk.named_modules() if encoder.resizes else ():
        for key, table in module.state_dict(prefix=f"visual_encoder.trunk.{name}.").items():
            if hasattr(module, "interpolate_pos_encoding") and ".position_embedding" in key:
                tokens = table.new_zeros(1, encoder.num_tokens + encoder.dropped, encoder.width)
                resized = module.interpolate_pos_encoding(tokens, side, side).detach()
                return {key: resized.reshape(*table.shape[:-2], *resized.shape[-2:])}
    return {}


def _head_key(llm: PreTrainedModel) -> str:
    """The key of the output layer's weight."""
    head = llm.get_output_embeddings()
    return next(f"{name}.weight" for name, module in llm.named_modules() if module is head)
