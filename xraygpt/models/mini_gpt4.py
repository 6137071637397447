"""A report model of four parts: vision encoder -> bridge -> linear projection -> language model.

With EVA-ViT and BLIP-2's Q-Former it is MiniGPT-4 as XrayGPT uses it, with a linear or MLP bridge a model of
LLaVA's kind. Shapes: B images, Q tokens for each image, D width of the language model, T positions. The
recipe trains the projection alone (3 M parameters at full size); bridge and encoder may be trained too, the
language model never is.

Paper: "MiniGPT-4" (Zhu et al., 2023); "XrayGPT" (Thawkar et al., 2023).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling

from xraygpt.common.checkpoint import save_checkpoint
from xraygpt.common.errors import CheckpointError, UnknownNameError
from xraygpt.common.paths import file_check, require_all
from xraygpt.common.precision import vision_precision
from xraygpt.common.registry import registry
from xraygpt.conversation.chat import embed_conversation
from xraygpt.conversation.messages import IMAGE_PLACEHOLDER, Conversation
from xraygpt.datasets.batch import images_of
from xraygpt.models.base_model import COMPUTED_BUFFERS, FrozenPart, freeze, is_frozen
from xraygpt.models.blip2 import Blip2Base, Blip2Config
from xraygpt.models.key_translation import TEXT_HALF, translate_projector_keys
from xraygpt.models.llm import check_llm, check_same_llm, llm_facts, load_llm, load_tokenizer, require_llm
from xraygpt.models.parts import Bridge, BridgeConfig, VisionEncoder, encoder_class, run_part
from xraygpt.models.prompted_model import PromptedConfig, PromptedModel
from xraygpt.models.prompts import prompt_row
from xraygpt.models.vision_tower import EVA_CLIP_G, build_encoder

__all__ = ["MiniGPT4", "MiniGPT4Config"]

logger = logging.getLogger(__name__)

EVA_VIT_G = "weights/eva_vit_g.pth"


@dataclass
class MiniGPT4Config(PromptedConfig, Blip2Config):
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
    llm_precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the frozen language model; auto: fp32 on the CPU, bf16 on a GPU that has
    it, else fp16."""
    ckpt: str | None = None
    """Checkpoint with the trained parts, the projection above all; null: the projection starts at random."""
    vit_precision: str = "fp16"
    """Number format of a frozen vision encoder's weights: fp16 or fp32; on the CPU always fp32."""
    freeze_qformer: bool = True
    """Do not train the Q-Former and its query tokens. `freeze_vit` freezes the norm behind the ViT too."""
    low_resource: bool = False
    """The reference's 8-bit language model, which its demo asks for; not supported: `llm_precision` holds,
    and the log says so."""
    device_8bit: int = 0
    """The reference's GPU for it; accepted and without effect."""

    @classmethod
    def field_types(cls, section: Mapping[str, Any]) -> dict[str, type]:
        bridge = section.get("bridge") or "qformer"
        return super().field_types(section) | {"bridge_config": _bridge_class(bridge).config_class}

    def __post_init__(self) -> None:
        if self.vit_precision == "fp16" and not self.freeze_vit:
            # The default is fp16 as in the reference, whose ViT is trained in fp32 when it is not frozen.
            self.vit_precision = "fp32"
        PromptedConfig.__post_init__(self)
        Blip2Config.__post_init__(self)
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


def _bridge_class(name: object) -> type[Bridge]:
    try:
        return registry.get_bridge_class(str(name), Bridge)
    except UnknownNameError as error:
        raise ValueError(f"bridge: {error}") from error


@registry.register_model("mini_gpt4")
class MiniGPT4(PromptedModel, Blip2Base):
    """Image -> report.

    Args:
        config: sizes and what is trained.
        encoder: image (B, 3, height, width) -> tokens.
        bridge: these tokens -> tokens (B, Q, width) for the projection.
        llm: the language model, built and loaded by the caller; it is frozen here.
        tokenizer: its tokenizer, with a padding token.
    """

    config: MiniGPT4Config
    config_class: ClassVar[type] = MiniGPT4Config
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = {
        "pretrain_vicuna": "configs/models/minigpt4_vicuna.yaml",
        "tiny": "configs/models/minigpt4_tiny.yaml",
    }
    IGNORED_KEYS: ClassVar[tuple[str, ...]] = (*COMPUTED_BUFFERS, *TEXT_HALF)

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

        freeze(self.llama_model)
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
    def check_files(cls, cfg: MiniGPT4Config) -> None:
        checks = cls.part_checks(cfg)
        source = "a training of this project, or XrayGPT's authors"
        checks.append(file_check("model.ckpt", cfg.ckpt, "the trained projection", source))
        checks.append(lambda: check_llm(cfg.llama_model, "model.llama_model"))
        checks.append(lambda: cfg.check_prompts(cfg.llama_model))
        require_all(checks)

    @classmethod
    def from_config(cls, cfg: MiniGPT4Config, device: str | torch.device = "cpu") -> Self:
        """Build the model and load everything that `cfg` names; `device` as in `BaseModel.from_config`.

        Raises:
            MissingFileError: one or more files are missing; all of them are named.
            CheckpointError: a file cannot be read or does not fit.
        """
        cls.check_files(cfg)
        cfg = replace(cfg, vit_precision=vision_precision(cfg.vit_precision, device))
        folder = require_llm(cfg.llama_model, "model.llama_model")
        tokenizer = load_tokenizer(folder)
        model = cls.build(cfg, llm=load_llm(folder, cfg.llm_precision, device), tokenizer=tokenizer)
        model.load_pretrained()
        return model

    def load_pretrained(self) -> None:
        """Load the vision encoder, the Q-Former and the trained parts from the files of the configuration."""
        parts = {"vit_ckpt": "vision encoder"}
        parts |= {"q_former_model": "Q-Former"} if self.bridge.pretrained else {}
        for key, part in parts.items():
            if getattr(self.config, key) is None:
                logger.warning("model.%s is null: the %s has random weights", key, part)
        self.load_parts(self.config)
        if self.config.low_resource:
            logger.warning(
                "model.low_resource: 8-bit weights are not supported; the language model is in %s",
                self.llama_model.dtype,
            )
        if self.config.ckpt is None:
            logger.info("model.ckpt is not set: the projection starts at random")
        else:
            self.load_checkpoint(self.config.ckpt, required=self._trained_parts)

    @property
    def _trained_parts(self) -> tuple[str, ...]:
        """Parts that have no weights but those of a training."""
        parts = [*self.bridge.named_children(), *self.bridge.named_parameters(recurse=False)]
        return ("llama_proj", *(name for name, _ in parts if not self.bridge.pretrained))

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
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens, pooler_output=self.ln_vision(tokens[:, 0])
        )

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
            img_embeds: (Q, D) for each placeholder, in the order of the prompts: a (B, Q, D) tensor when
                every prompt has one.
            side: where shorter rows are padded; "left" when text is to be written behind them.
        """
        return self._embed_rows(self._prompt_rows(prompts), img_embeds, side)

    def prompt_wrap(self, img_embeds: Tensor, atts_img: Tensor, prompt: str) -> tuple[Tensor, Tensor]:
        """Put the text of `prompt` around image embeddings (B, Q, D), without BOS; "" changes nothing.

        Raises:
            ValueError: `prompt` does not hold ``<ImageHere>`` exactly once.
        """
        if not prompt:
            return img_embeds, atts_img
        if prompt.count(IMAGE_PLACEHOLDER) != 1:
            raise ValueError(f"the prompt {prompt!r} must hold {IMAGE_PLACEHOLDER} exactly once")
        row = prompt_row(self.llama_tokenizer, prompt, self.tokens_per_image, bos=False)
        embeds, mask = self._embed_rows([row] * len(img_embeds), img_embeds, "right")
        return embeds, mask.to(atts_img.dtype)

    def forward(self, samples: Any) -> dict[str, Tensor]:
        """Loss of the captions, given the images and the batch's prompt.

        Args:
            samples: ``image`` (B, 3, H, W); ``caption``, B texts; optionally ``image_id``, and ``prompt``, a
                text in the template or B of them (the first of `prompt_list` when absent).
        """
        image = images_of(samples)
        rows = self._prompt_rows(self._prompts(samples))
        return self._loss(samples, rows, self.encode_img(image)[0])

    def get_context_emb(self, conv: Conversation, img_list: Sequence[Tensor]) -> Tensor:
        """A conversation with its images (1, Q, D) as the language model reads it, (1, T, D)."""
        return embed_conversation(self, conv, img_list)[0]

    def export(self, folder: Path) -> None:
        """Write the trained parts as files that `ckpt`, `q_former_model` and `vit_ckpt` read.

        ``projection.pth`` always; ``qformer.pth`` (with the norm behind the ViT) and ``vit.pth`` if trained.
        """
        names, state = self._trained_parts, self.state_dict()
        projection = {key: value for key, value in state.items() if key.partition(".")[0] in names}
        save_checkpoint(folder / "projection.pth", {"model": projection})
        self.bridge.export(folder)
        if not is_frozen(self.visual_encoder):
            save_checkpoint(folder / "vit.pth", {"model": self.visual_encoder.published_state()})

    def manifest(self) -> dict[str, Any]:
        return super().manifest() | {
            **llm_facts(self.llama_model, self.config.llama_model),
            **self._parts(),
            "num_query_token": self.tokens_per_image,
            "image_size": self.visual_encoder.preprocessing.image_size,
        }

    def _parts(self) -> dict[str, str]:
        """Which encoder and bridge the projection was trained with."""
        encoder = self.visual_encoder.identity or self.config.vit_model
        return {"vit_model": encoder, "bridge": self.config.bridge}

    def check_origin(self, state: Mapping[str, Tensor], manifest: Mapping[str, Any], where: str) -> None:
        for key, own in self._parts().items():
            if manifest.get(key) not in (None, own):
                raise CheckpointError(
                    f"{where} was trained with model.{key}: {manifest[key]}, and this model has {own}"
                )
        check_same_llm(state, manifest, llm_facts(self.llama_model, self.config.llama_model), where)

    def translate_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return translate_projector_keys(state)

    def _prompts(self, samples: Any) -> list[str]:
        prompt = samples.get("prompt", self.prompt_list[0] if self.prompt_list else "")
        return [prompt] * len(images_of(samples)) if isinstance(prompt, str) else list(prompt)

    def _embed_samples(self, samples: Any) -> tuple[Tensor, Tensor]:
        """A batch as the language model reads it before it writes: embeddings (B, T, D) and mask (B, T)."""
        images = self.encode_img(images_of(samples))[0]
        return self.embed_prompt(self._prompts(samples), images)

    def _prompt_rows(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        return [
            prompt_row(self.llama_tokenizer, p or IMAGE_PLACEHOLDER, self.tokens_per_image) for p in prompts
        ]
