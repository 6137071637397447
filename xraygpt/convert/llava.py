"""`MiniGPT4` with an MLP bridge as Hugging Face's LLaVA, and back: the same network, without exception."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from xraygpt.common.errors import CheckpointError, ConfigError
from xraygpt.convert.hf_tokenizer import chat_template, image_token_id
from xraygpt.models.bridges.mlp import MLPConfig
from xraygpt.models.encoders.hf_encoder import HFEncoder
from xraygpt.models.key_translation import COMPUTED
from xraygpt.models.mini_gpt4 import MiniGPT4


class Llava:
    """`LlavaForConditionalGeneration`; methods and attributes as in `Blip2`."""

    model_class: ClassVar[Any] = LlavaForConditionalGeneration
    processor_class: ClassVar[Any] = LlavaProcessor
    expands: ClassVar[bool] = True
    card_note: ClassVar[str] = ""

    def write(
        self, model: MiniGPT4, text: Mapping[str, Any], images: Mapping[str, Any], tokenizer: Any
    ) -> tuple[Any, dict[str, Tensor], Any]:
        encoder, llm = _checked_encoder(model), model.llama_model
        vision, strategy = encoder.trunk.config.to_dict(), "default" if encoder.dropped else "full"
        if encoder.resizes:
            vision["image_size"] = encoder.preprocessing.image_size
        # LLaVA ties the output layer to embeddings of this name only; to others, it is written beside them.
        table = f"{llm.base_model_prefix}.embed_tokens.weight"
        tied = text["tie_word_embeddings"] and table in dict(llm.named_parameters())
        settings: dict[str, Any] = {
            "vision_config": vision,
            "text_config": {**text, "tie_word_embeddings": tied},
            "image_token_index": image_token_id(tokenizer),
            "image_seq_length": model.tokens_per_image,
            "projector_hidden_act": "gelu",
            "vision_feature_layer": _feature_layer(encoder),
            "vision_feature_select_strategy": strategy,
            "tie_word_embeddings": tied,
        }
        processor = LlavaProcessor(
            CLIPImageProcessorPil(**images, crop_size=images["size"], do_center_crop=False),
            tokenizer,
            patch_size=vision["patch_size"],
            vision_feature_select_strategy=strategy,
            num_additional_image_tokens=encoder.prefix_tokens + encoder.dropped,
            chat_template=chat_template(model),
        )
        state, head = model.state_dict() | _positions(encoder), head_key(llm)
        if not tied:
            state[f"llama_model.{head}"] = state[f"llama_model.{head}"].clone()
        return LlavaConfig(**settings), to_hf_llava(state, llm.base_model_prefix, head), processor

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
        vision = {"layer": layer - 1 if layer > 0 else layer, "class_tokens": full}
        return {"vision": vision, "bridge": "mlp"}


def head_key(llm: PreTrainedModel) -> str:
    """The key of the output layer's weight."""
    head = llm.get_output_embeddings()
    return next(f"{name}.weight" for name, module in llm.named_modules() if module is head)


def _checked_encoder(model: MiniGPT4) -> HFEncoder:
    """The vision encoder; raises ConfigError that names all parts of the model that LLaVA has not."""
    encoder, config, problems = model.visual_encoder, model.config, []
    settings = config.bridge_config
    if config.bridge != "mlp":
        problems.append(f"bridge: {config.bridge}; its projector is the bridge mlp")
    elif isinstance(settings, MLPConfig) and (settings.depth, settings.merge) != (2, 1):
        problems.append(
            f"bridge_config: depth {settings.depth} and merge {settings.merge}; its projector has 2 and 1"
        )
    if not isinstance(encoder, HFEncoder):
        problems.append(f"vit_model: {config.vit_model}; its vision encoder is a model of transformers, hf:…")
    else:
        patch, side = getattr(encoder.trunk.config, "patch_size", None), encoder.preprocessing.image_size
        patches = (side // patch) ** 2 if isinstance(patch, int) else 0
        if encoder.num_tokens - encoder.prefix_tokens != patches:
            problems.append(f"vit_model: {encoder.label}, whose tokens are not one for each patch")
        if encoder.dropped > 1:
            problems.append(
                f"vision.class_tokens: false; it leaves out the first of {encoder.dropped} class and "
                "register tokens only"
            )
    if getattr(model.llama_model.get_output_embeddings(), "bias", None) is not None:
        problems.append("llama_model: a bias in the output layer")
    if problems or not isinstance(encoder, HFEncoder):
        raise ConfigError([f"LLaVA of Hugging Face has not model.{line}" for line in problems])
    return encoder


@torch.no_grad()
def _feature_layer(encoder: HFEncoder) -> int:
    """Which of the trunk's hidden states the encoder gives, counted from the last, -1.

    Raises:
        ConfigError: none, since a norm follows.
    """
    side, trunk = encoder.preprocessing.image_size, encoder.trunk
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    image = image.to(trunk.device, trunk.dtype)
    states = trunk(pixel_values=image, output_hidden_states=True, **encoder.resizes).hidden_states
    for number in range(-1, -len(states), -1):
        if torch.allclose(states[number][:, encoder.dropped :], encoder(image)):
            return number
    raise ConfigError(
        f"model.vision.layer is {encoder.layer}: {encoder.label} normalises its output once more, but LLaVA "
        "of Hugging Face takes what a block gives; a model trained with layer -1 or -2 can be written"
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


def to_hf_llava(state: Mapping[str, Tensor], base: str, head: str) -> dict[str, Tensor]:
    """Keys of `MiniGPT4` with ``vit_model: hf:…`` and ``bridge: mlp`` -> keys of Hugging Face's LLaVA.

    Args:
        base: what the keys of the language model without its output layer begin with, e.g. "model".
        head: the key of the output layer, e.g. "lm_head.weight".

    Raises:
        CheckpointError: a key has no counterpart there.
    """
    rules = {
        "visual_encoder.trunk.": "model.vision_tower.",
        "bridge_mlp.0.": "model.multi_modal_projector.linear_1.",
        "llama_proj.": "model.multi_modal_projector.linear_2.",
        f"llama_model.{head}": "lm_head.weight",
        f"llama_model.{base}.": "model.language_model.",
    }
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if COMPUTED.match(key):
            continue
        ours = next((ours for ours in rules if key.startswith(ours)), None)
        if ours is None:
            raise CheckpointError(f"{key}: a key that LLaVA of Hugging Face has no counterpart of")
        renamed[rules[ours] + key.removeprefix(ours)] = value
    return renamed


def from_hf_llava_language(state: Mapping[str, Tensor], base: str, head: str) -> dict[str, Tensor]:
    """Keys of the language model in a LLaVA folder, of any version, -> its own; arguments as above."""
    output, prefix = (
        re.compile(r"^(language_model\.)?lm_head\."),
        re.compile(r"^(model\.)?language_model\.(model\.)?"),
    )
    return {head if output.match(key) else prefix.sub(f"{base}.", key): state[key] for key in state}
