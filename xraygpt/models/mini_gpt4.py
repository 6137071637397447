"""A report model of four parts: vision encoder -> bridge -> linear projection -> language model.

With EVA-ViT and BLIP-2's Q-Former it is MiniGPT-4 as XrayGPT uses it, with a linear or MLP bridge a model of
LLaVA's kind. Shapes: B images, Q tokens for each image, D width of the language model, T positions. The
recipe trains the projection alone (3 M parameters at full size); bridge, encoder and language model may be
trained too, the latter two also by adapters.

Paper: "MiniGPT-4" (Zhu et al., 2023); "XrayGPT" (Thawkar et al., 2023).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling

from xraygpt.common.checkpoint import save_checkpoint
from xraygpt.common.errors import CheckpointError, UnknownNameError
from xraygpt.common.paths import Check
from xraygpt.common.registry import registry
from xraygpt.conversation.chat import embed_conversation
from xraygpt.conversation.messages import IMAGE_PLACEHOLDER, Conversation
from xraygpt.datasets.batch import images_of
from xraygpt.datasets.feature_cache import FrozenPart
from xraygpt.models.adapters import adapter_checks
from xraygpt.models.blip2 import Blip2Base, Blip2Config
from xraygpt.models.key_translation import COMPUTED, TEXT_HALF, translate_projector_keys
from xraygpt.models.llm import (
    LanguageModelConfig,
    check_llm,
    check_same_llm,
    load_llm,
    load_tokenizer,
    require_llm,
)
from xraygpt.models.parts import Bridge, BridgeConfig, VisionEncoder, encoder_class, run_part
from xraygpt.models.prompted_model import PromptedConfig, PromptedModel
from xraygpt.models.prompts import prompt_row
from xraygpt.models.vision_tower import EVA_CLIP_G, build_encoder

__all__ = ["MiniGPT4", "MiniGPT4Config"]

logger = logging.getLogger(__name__)

EVA_VIT_G = "weights/eva_vit_g.pth"


@dataclass
class MiniGPT4Config(PromptedConfig, LanguageModelConfig, Blip2Config):
    """Sizes, pretrained files and prompts of a MiniGPT4.

    A pretrained file is a local path, ``package:…``, a web address or ``hf://owner/repository/file``; null
    means that the part stays as it was initialised, at random, which is said in the log.
    """

    BELONGS_TO: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **Blip2Config.BELONGS_TO,
        "bridge": ("bridge_config", "ckpt"),
    }

    vit_ckpt: str | None = EVA_VIT_G
    """Weights of the vision encoder (EVA-CLIP ViT-g at full size); left out with hf:, those in its folder."""
    bridge: str = "qformer"
    """What takes the encoder's tokens to those that are projected: qformer, linear, mlp, or your own."""
    bridge_config: BridgeConfig = field(default_factory=BridgeConfig)
    """Settings of the bridge; what they are depends on `bridge`."""
    q_former_model: str | None = "weights/blip2_pretrained_flant5xxl.pth"
    """Weights of the Q-Former: keys ``Qformer.*``, ``query_tokens`` and ``ln_vision.*``."""
    llama_model: str = "weights/xraygpt_llm"
    """Hugging Face folder of the language model."""
    freeze_llm: bool = True
    """Leave the language model as loaded."""
    ckpt: str | None = None
    """Checkpoint with the trained parts, the projection above all; null: the projection starts at random."""
    vit_precision: str = "fp16"
    """Number format of a frozen vision encoder's weights: fp16 or fp32; on the CPU always fp32."""
    freeze_qformer: bool = True
    """Do not train the Q-Former and its query tokens. `freeze_vit` freezes the norm behind the ViT too."""
    low_resource: bool = False
    """The reference's name for `llm_precision: int8`."""
    device_8bit: int = 0
    """The reference's GPU for it; accepted and without effect, as `run.device` decides."""

    @classmethod
    def field_types(cls, section: Mapping[str, Any]) -> dict[str, type]:
        bridge = section.get("bridge") or "qformer"
        return super().field_types(section) | {"bridge_config": _bridge_class(bridge).config_class}

    def __post_init__(self) -> None:
        if self.vit_precision == "fp16" and not self.freeze_vit:
            # The default is fp16 as in the reference, whose ViT is trained in fp32 when it is not frozen.
            self.vit_precision = "fp32"
        if self.low_resource and self.llm_precision == "auto":
            self.llm_precision = "int8"
        PromptedConfig.__post_init__(self)
        Blip2Config.__post_init__(self)
        if self.adapter is not None and not self.freeze_llm:
            raise ValueError(
                "adapter and freeze_llm: false exclude each other: beside an adapter it is frozen"
            )
        self.check_trained()
        if self.vit_ckpt == EVA_VIT_G and self.vit_model != EVA_CLIP_G:
            encoder, name = encoder_class(self.vit_model)
            self.vit_ckpt = encoder.own_weights(name)
            if self.vit_ckpt is None:
                raise ValueError(f"vit_ckpt must name the weights of {self.vit_model}; null: random ones")
        bridge = _bridge_class(self.bridge)
        if type(self.bridge_config) is BridgeConfig:
            self.bridge_config = bridge.config_class()
        if not isinstance(self.bridge_config, bridge.config_class):
            raise ValueError(f"bridge_config holds settings of another bridge than {self.bridge}")
        if not bridge.pretrained:
            self.q_former_model = None

    def weights_are_trained(self) -> bool:
        return self.adapter is None and not self.freeze_llm


def _bridge_class(name: object) -> type[Bridge]:
    try:
        return registry.get_bridge_class(str(name), Bridge)
    except UnknownNameError as error:
        raise ValueError(f"bridge: {error}") from error


@registry.register_model("mini_gpt4")
class MiniGPT4(PromptedModel, Blip2Base):
    """Image -> report.

    In a batch are ``image`` (B, 3, H, W), ``caption``, B texts, and optionally ``prompt``, a text in the
    template or B of them (the first of `prompt_list` when absent).

    Args:
        config: sizes and what is trained.
        encoder: image (B, 3, height, width) -> tokens.
        bridge: these tokens -> tokens (B, Q, width) for the projection.
        llm: the language model, built and loaded by the caller; frozen here unless `config` trains it.
        tokenizer: its tokenizer, with a padding token.
    """

    config: MiniGPT4Config
    config_class: ClassVar[type] = MiniGPT4Config
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = {
        "pretrain_vicuna": "configs/models/minigpt4_vicuna.yaml",
        "tiny": "configs/models/minigpt4_tiny.yaml",
    }
    IGNORED_KEYS: ClassVar[tuple[str, ...]] = (COMPUTED, *TEXT_HALF)
    CHECKPOINT = ("the trained projection", "a training of this project, or XrayGPT's authors")

    def __init__(
        self,
        config: MiniGPT4Config,
        *,
        encoder: VisionEncoder,
        bridge: Bridge,
        llm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        super().__init__(config, encoder, bridge)
        self.take_language_model(config, llm, tokenizer, config.llama_model)
        self.llama_proj = nn.Linear(bridge.width, llm.config.hidden_size)
        self.tokens_per_image = bridge.num_tokens(encoder.num_tokens)
        """Q."""

        own = [] if bridge.pretrained else [*bridge.named_children(), *bridge.named_parameters(recurse=False)]
        self.required_parts = ("llama_proj", *(name for name, _ in own))  # they come from a training alone

        bridge.freeze(config)

    @classmethod
    def build(
        cls, config: MiniGPT4Config, *, llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> Self:
        """The model of a configuration on a language model; encoder, bridge and projection are random."""
        encoder = build_encoder(config)
        bridge = _bridge_class(config.bridge).from_config(config, encoder.width, llm.config.hidden_size)
        return cls(config, encoder=encoder, bridge=bridge, llm=llm, tokenizer=tokenizer)

    @classmethod
    def with_random_weights(cls, cfg: MiniGPT4Config, device: str | torch.device = "cpu") -> Self:
        """The model of a configuration; only the language model has weights, those in its folder."""
        folder = require_llm(cfg.llama_model, "model.llama_model")
        tokenizer = load_tokenizer(folder)  # first, as it is read in no time
        return cls.build(cfg, llm=load_llm(folder, cfg.load_precision(), device), tokenizer=tokenizer)

    @classmethod
    def part_checks(cls, cfg: MiniGPT4Config) -> list[Check]:
        llm = partial(check_llm, cfg.llama_model, "model.llama_model")
        adapter = adapter_checks(cfg.adapter, "model.adapter")
        return [*super().part_checks(cfg), llm, *adapter, partial(cfg.check_prompts, cfg.llama_model)]

    def load_parts(self, cfg: MiniGPT4Config) -> None:
        random = "model.%s is null: the %s has random weights"
        if cfg.vit_ckpt is None:
            logger.warning(random, "vit_ckpt", "vision encoder")
        if cfg.q_former_model is None and self.bridge.pretrained:
            logger.warning(random, "q_former_model", "Q-Former")
        super().load_parts(cfg)
        if cfg.ckpt is None:
            logger.info("model.ckpt is not set: the projection starts at random")

    def encode_queries(self, image: Tensor) -> Tensor:
        """Images (B, 3, height, width) -> tokens behind the bridge (B, Q, its width), float32.

        No gradient is kept through parts that are frozen. Features of a frozen bridge are returned.
        """
        if image.dim() == 3 and self._bridge_is_frozen:
            return image
        return run_part(self.bridge, self.encode_patches(image))

    @property
    def _bridge_is_frozen(self) -> bool:
        return not any(parameter.requires_grad for parameter in self.bridge.parameters())

    def frozen_part(self) -> FrozenPart:
        """The vision encoder, with the bridge unless that is trained."""
        encoder, config = super().frozen_part(), self.config
        if not self._bridge_is_frozen:
            return encoder
        sizes = {"num_query_token": config.num_query_token, "qformer": config.qformer}
        return FrozenPart(
            "vision encoder and bridge",
            self.encode_queries,
            (self.tokens_per_image, self.bridge.width),
            {**encoder.modules, "bridge": self.bridge},
            {**encoder.settings, "bridge": config.bridge, "bridge_config": config.bridge_config, **sizes},
        )

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """Images (B, 3, height, width) -> `last_hidden_state` (B, N, V) of the vision encoder, normalised.

        `pooler_output` (B, V) is the class token, normalised once more, as in Hugging Face's BLIP-2.
        """
        tokens = self.embed_image(pixel_values)
        pooled = self.ln_vision(tokens[:, 0])
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=pooled)

    def get_qformer_features(self, pixel_values: Tensor) -> Tensor:
        """Images (B, 3, height, width) -> what the queries read off them, (B, Q, H) float32."""
        return self.encode_queries(pixel_values)

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Texts (B, T) int64 -> `last_hidden_state` (B, T, D) of the language model, without output layer."""
        output = self.llama_model.base_model(input_ids=input_ids, attention_mask=attention_mask)
        return BaseModelOutputWithPooling(last_hidden_state=output.last_hidden_state)

    def encode_img(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image (B, 3, H, W) -> embeddings for the language model (B, Q, D), and ones (B, Q) int64."""
        inputs_llama = self.llama_proj(self.encode_queries(image))
        return inputs_llama, torch.ones(inputs_llama.shape[:-1], dtype=torch.long, device=image.device)

    def embed_prompt(
        self, prompts: Sequence[str], img_embeds: Tensor | Sequence[Tensor], side: str = "left"
    ) -> tuple[Tensor, Tensor]:
        """Prompts with their images -> embeddings (B, T, D) and attention mask (B, T); BOS first.

        The one way from text and images to the language model: training, evaluation and chat use it.

        Args:
            prompts: texts with ``<ImageHere>`` for each image; an empty one stands for the image alone.
            img_embeds: (Q, D) for each placeholder, in the order of the prompts, or (B, Q, D).
            side: where shorter rows are padded; "left" when text is to be written behind them.
        """
        return self._embed_rows(self._prompt_rows(prompts), img_embeds, side)

    def prompt_wrap(self, img_embeds: Tensor, atts_img: Tensor, prompt: str) -> tuple[Tensor, Tensor]:
        """Put the text of `prompt` around image embeddings (B, Q, D), without BOS; "" changes nothing.

        Raises ValueError unless `prompt` holds ``<ImageHere>`` exactly once.
        """
        if not prompt:
            return img_embeds, atts_img
        if prompt.count(IMAGE_PLACEHOLDER) != 1:
            raise ValueError(f"the prompt {prompt!r} must hold {IMAGE_PLACEHOLDER} exactly once")
        row = prompt_row(self.llama_tokenizer, prompt, self.tokens_per_image, bos=False)
        embeds, mask = self._embed_rows([row] * len(img_embeds), img_embeds, "right")
        return embeds, mask.to(atts_img.dtype)

    def get_context_emb(self, conv: Conversation, img_list: Sequence[Tensor]) -> Tensor:
        """A conversation with its images (1, Q, D) as the language model reads it, (1, T, D)."""
        return embed_conversation(self, conv, img_list)[0]

    def export(self, folder: Path) -> None:
        """Write the trained parts as files that `ckpt`, `q_former_model`, `vit_ckpt` and `llama_model` read.

        ``projection.pth`` always; ``qformer.pth`` (with the norm behind the ViT), ``vit.pth`` and the folder
        ``llm`` if trained; adapters as the folders ``adapter`` and ``vit_adapter``, for their `path`.
        """
        state, parts = self.state_dict(), self.required_parts
        projection = {key: value for key, value in state.items() if key.partition(".")[0] in parts}
        save_checkpoint(folder / "projection.pth", {"model": projection})
        self.bridge.export(folder)
        self.export_vision_encoder(folder)
        self.export_language_model(folder / ("adapter" if self.config.adapter else "llm"))

    def manifest(self) -> dict[str, Any]:
        return super().manifest() | {
            "vit_model": self.visual_encoder.identity or self.config.vit_model,
            "bridge": self.config.bridge,
            "num_query_token": self.tokens_per_image,
            "image_size": self.visual_encoder.preprocessing.image_size,
        }

    def check_origin(self, state: Mapping[str, Tensor], manifest: Mapping[str, Any], where: str) -> None:
        own = self.manifest()
        for key in ("vit_model", "bridge"):
            if manifest.get(key) not in (None, own[key]):
                raise CheckpointError(
                    f"{where} was trained with model.{key}: {manifest[key]}, and this model has {own[key]}"
                )
        check_same_llm(state, manifest, own, where)

    def translate_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return translate_projector_keys(state)

    def _inputs(self, samples: Any) -> tuple[list[tuple[int, ...]], Tensor]:
        images = images_of(samples)
        prompt = samples.get("prompt", self.prompt_list[0] if self.prompt_list else "")
        prompts = [prompt] * len(images) if isinstance(prompt, str) else prompt
        return self._prompt_rows(prompts), self.encode_img(images)[0]

    def _prompt_rows(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        return [
            prompt_row(self.llama_tokenizer, p or IMAGE_PLACEHOLDER, self.tokens_per_image) for p in prompts
        ]
