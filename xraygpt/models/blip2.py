"""What BLIP-2's models share: vision encoder, Q-Former, tokenizer, and how their weights are loaded.

Shapes: B images, N image tokens, V their width, Q query tokens, D the Q-Former's width.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertTokenizer

from xraygpt.common.checkpoint import load_state, load_weights
from xraygpt.common.errors import CheckpointError, MissingFileError
from xraygpt.common.paths import cached_file, resolve_path
from xraygpt.models.base_model import BaseModel, freeze, is_frozen
from xraygpt.models.eva_vit import (
    VisionConfig,
    VisionTransformer,
    convert_weights_to_fp16,
    create_vision_encoder,
    interpolate_pos_embed,
)
from xraygpt.models.key_translation import TEXT_HALF, TIED, select_qformer_keys, translate_eva_keys
from xraygpt.models.Qformer import BertLMHeadModel, QformerConfig, QueryModel
from xraygpt.models.required_files import Check, file_check

logger = logging.getLogger(__name__)

_BLIP2 = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2"
EVA_VIT_G_URL = f"{_BLIP2}/eva_vit_g.pth"
BLIP2_QFORMER_URL = f"{_BLIP2}/blip2_pretrained_flant5xxl.pth"

DECODER_START = "[DEC]"
"""The token that begins a text to be generated; the first stage adds it to BERT's vocabulary."""

VISION_ENCODERS = ("eva_clip_g",)
"""Names of vision encoders; one architecture so far, at any size."""


@dataclass
class Blip2Config:
    """Settings of the frozen halves, shared by all models on top of them."""

    vit_model: str = "eva_clip_g"
    """Kind of vision encoder."""
    vision: VisionConfig = field(default_factory=VisionConfig)
    """Sizes of the vision encoder."""
    qformer: QformerConfig = field(default_factory=QformerConfig)
    """Sizes of the Q-Former."""
    vit_ckpt: str | None = None
    """Weights of the vision encoder (file, address or hf:// name); none: random."""
    q_former_model: str | None = None
    """Weights of Q-Former, query tokens and ln_vision (a BLIP-2 checkpoint will do); none: random."""
    img_size: int | None = None
    """Side of the input image in pixels; none: that of `vision`."""
    image_size: int | None = None
    """The same as `img_size`, by the name the reference's YAML files use."""
    drop_path_rate: float | None = None
    """Stochastic depth of the vision encoder; none: that of `vision`."""
    use_grad_checkpoint: bool | None = None
    """Recompute the vision encoder's activations in the backward pass; none: that of `vision`."""
    vit_precision: str = "fp32"
    """Precision the vision encoder's weights are held in: fp32 or fp16 (frozen encoders only)."""
    freeze_vit: bool = True
    """Whether the vision encoder stays as loaded."""
    num_query_token: int = 32
    """Number of query tokens Q."""

    def __post_init__(self) -> None:
        if self.vit_model not in VISION_ENCODERS:
            raise ValueError(f"vit_model must be one of {VISION_ENCODERS}, not {self.vit_model!r}")
        if self.vit_precision not in ("fp32", "fp16"):
            raise ValueError(f"vit_precision must be fp32 or fp16, not {self.vit_precision!r}")
        if self.vit_precision == "fp16" and not self.freeze_vit:
            raise ValueError("vit_precision fp16 needs freeze_vit: float16 weights cannot be trained safely")
        if None not in (self.img_size, self.image_size) and self.img_size != self.image_size:
            raise ValueError(
                f"img_size {self.img_size} and image_size {self.image_size} are two names for one thing"
            )
        if self.num_query_token < 1:
            raise ValueError("num_query_token must be at least 1")
        self.vision_config()

    def vision_config(self) -> VisionConfig:
        """`vision` with the keys that override it applied."""
        vision = self.vision
        rate, recompute = self.drop_path_rate, self.use_grad_checkpoint
        return replace(
            vision,
            img_size=self.img_size or self.image_size or vision.img_size,
            drop_path_rate=vision.drop_path_rate if rate is None else rate,
            use_grad_checkpoint=vision.use_grad_checkpoint if recompute is None else recompute,
        )

    def qformer_config(self) -> QformerConfig:
        """`qformer` with the widths that follow from the rest."""
        return replace(self.qformer, encoder_width=self.vision.embed_dim, query_length=self.num_query_token)


class LayerNorm(nn.LayerNorm):
    """Layer norm (eps 1e-5) computed in float32 whatever the input's dtype, which the output has again."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
        return out.to(x.dtype)


class Blip2Base(BaseModel):
    """Base of the models with a vision encoder and a Q-Former.

    Subclasses set `visual_encoder`, `ln_vision`, `Qformer` and `query_tokens`. A part is frozen with
    `base_model.freeze`; `train()` then leaves it in evaluation mode.
    """

    visual_encoder: VisionTransformer
    ln_vision: LayerNorm
    Qformer: BertLMHeadModel | QueryModel
    query_tokens: nn.Parameter

    @classmethod
    def init_tokenizer(
        cls, source: str = "bert-base-uncased", truncation_side: str = "right"
    ) -> BertTokenizer:
        """BERT's tokenizer with the token [DEC] added as `bos_token`.

        `source` is a WordPiece vocabulary file, a folder with a tokenizer, or a name on the hub.
        Raises MissingFileError if it is neither here nor can be fetched.
        """
        path = resolve_path(source)
        if isinstance(path, Path) and path.is_file():
            tokenizer = BertTokenizer(vocab=str(path), do_lower_case=True, truncation_side=truncation_side)
        else:
            name = str(path) if isinstance(path, Path) and path.is_dir() else source
            try:
                tokenizer = BertTokenizer.from_pretrained(name, truncation_side=truncation_side)
            except OSError as error:
                raise MissingFileError(
                    f"missing file: BERT's tokenizer\n  looked for: {source}, a vocabulary file (vocab.txt), "
                    "a folder, or a name on the Hugging Face hub\n  set model.bert_tokenizer to where it "
                    "is; it comes with the model bert-base-uncased"
                ) from error
        tokenizer.add_special_tokens({"bos_token": DECODER_START})
        return tokenizer

    @overload
    @classmethod
    def init_Qformer(
        cls,
        num_query_token: int,
        vision_width: int,
        cross_attention_freq: int = ...,
        *,
        config: QformerConfig | None = ...,
        text: Literal[False] = ...,
    ) -> tuple[QueryModel, nn.Parameter]: ...

    @overload
    @classmethod
    def init_Qformer(
        cls,
        num_query_token: int,
        vision_width: int,
        cross_attention_freq: int = ...,
        *,
        config: QformerConfig | None = ...,
        text: Literal[True],
    ) -> tuple[BertLMHeadModel, nn.Parameter]: ...

    @classmethod
    def init_Qformer(
        cls,
        num_query_token: int,
        vision_width: int,
        cross_attention_freq: int = 2,
        *,
        config: QformerConfig | None = None,
        text: bool = False,
    ) -> tuple[QueryModel | BertLMHeadModel, nn.Parameter]:
        """A random Q-Former and its query tokens (1, Q, D), with or without the text half.

        `config` gives the other sizes (BERT-base by default).
        """
        config = replace(
            config or QformerConfig(),
            encoder_width=vision_width,
            cross_attention_freq=cross_attention_freq,
            query_length=num_query_token,
        )
        query_tokens = nn.Parameter(torch.zeros(1, num_query_token, config.hidden_size))
        nn.init.normal_(query_tokens, mean=0.0, std=config.initializer_range)
        return (BertLMHeadModel(config) if text else QueryModel(config)), query_tokens

    @classmethod
    def init_vision_encoder(
        cls,
        model_name: str,
        img_size: int,
        drop_path_rate: float,
        use_grad_checkpoint: bool,
        precision: str,
        *,
        config: VisionConfig | None = None,
    ) -> tuple[VisionTransformer, LayerNorm]:
        """A random vision encoder and the layer norm that follows it; `config` gives the other sizes."""
        if model_name not in VISION_ENCODERS:
            raise ValueError(f"unknown vision encoder {model_name!r}; known: {', '.join(VISION_ENCODERS)}")
        config = replace(
            config or VisionConfig(),
            img_size=img_size,
            drop_path_rate=drop_path_rate,
            use_grad_checkpoint=use_grad_checkpoint,
        )
        encoder = create_vision_encoder(config)
        if precision == "fp16":
            convert_weights_to_fp16(encoder)
        return encoder, LayerNorm(config.embed_dim)

    def init_parts(self, cfg: Blip2Config, *, text: bool) -> None:
        """Build vision encoder, ln_vision, Q-Former and query tokens of `cfg`, without loading weights.

        `freeze_vit` freezes the encoder only; ln_vision is the subclass's to decide.
        """
        vision = cfg.vision_config()
        self.visual_encoder, self.ln_vision = self.init_vision_encoder(
            cfg.vit_model,
            vision.img_size,
            vision.drop_path_rate,
            vision.use_grad_checkpoint,
            cfg.vit_precision,
            config=vision,
        )
        if cfg.freeze_vit:
            freeze(self.visual_encoder)
        sizes = cfg.qformer_config()
        freq = sizes.cross_attention_freq
        if text:
            self.Qformer, self.query_tokens = self.init_Qformer(
                cfg.num_query_token, vision.embed_dim, freq, config=sizes, text=True
            )
        else:
            self.Qformer, self.query_tokens = self.init_Qformer(
                cfg.num_query_token, vision.embed_dim, freq, config=sizes
            )

    @classmethod
    def part_checks(cls, cfg: Blip2Config) -> list[Check]:
        """Checks of the weight files that `load_parts` reads, for `require_all`."""
        return [
            file_check("model.vit_ckpt", cfg.vit_ckpt, "weights of the vision encoder", EVA_VIT_G_URL),
            file_check(
                "model.q_former_model", cfg.q_former_model, "weights of the Q-Former", BLIP2_QFORMER_URL
            ),
        ]

    def load_parts(self, cfg: Blip2Config) -> None:
        """Load the weight files that `cfg` names.

        Raises MissingFileError or CheckpointError.
        """
        if cfg.vit_ckpt is not None:
            self.load_vision_encoder(cfg.vit_ckpt)
        if cfg.q_former_model is not None:
            self.load_from_pretrained(cfg.q_former_model)

    def load_vision_encoder(self, url_or_filename: str | Path) -> None:
        """Load the vision encoder, resizing the position embedding to this image size if need be."""
        path = cached_file(url_or_filename)
        state = translate_eva_keys(load_weights(path), depth=len(self.visual_encoder.blocks))
        try:
            interpolate_pos_embed(self.visual_encoder, state)
        except ValueError as error:
            raise CheckpointError(
                f"{path} does not fit the vision encoder of model.vision: {error}"
            ) from error
        load_state(self.visual_encoder, state, where=str(path))
        logger.info("vision encoder loaded from %s", path)

    def load_from_pretrained(self, url_or_filename: str | Path) -> None:
        """Load Q-Former, query tokens and ln_vision from a BLIP-2, XrayGPT or own checkpoint.

        The text half in the file is ignored, by name, where this model has none.
        """
        path = cached_file(url_or_filename)
        load_state(
            self,
            select_qformer_keys(load_weights(path)),
            where=str(path),
            ignore=() if isinstance(self.Qformer, BertLMHeadModel) else TEXT_HALF,
            expect_missing=(
                r"^(?!query_tokens$|Qformer\.|ln_vision\.)",
                r"^Qformer\.bert\.embeddings\.position_ids$",
                *TIED,
            ),
        )
        logger.info("Q-Former loaded from %s", path)

    def maybe_autocast(self, dtype: torch.dtype | None = None) -> AbstractContextManager[object]:
        """Autocast for a vision encoder with half-precision weights, on any device.

        Does nothing for float32 weights or where the caller has switched autocast on already. `dtype`
        defaults to that of the encoder's weights.
        """
        device_type = self.device.type
        dtype = dtype or self.visual_encoder.patch_embed.proj.weight.dtype
        if dtype == torch.float32 or torch.is_autocast_enabled(device_type):
            return nullcontext()
        return torch.autocast(device_type, dtype=dtype)

    def embed_image(self, image: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, N, V): vision encoder and ln_vision, float32 without autocast.

        No graph is kept through a frozen vision encoder.
        """
        with (
            self.maybe_autocast(),
            torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.visual_encoder)),
        ):
            tokens = self.visual_encoder(image)
        return self.ln_vision(tokens)

    def run_queries(self, image_embeds: Tensor) -> Tensor:
        """(B, N, V) -> (B, Q, D): what the query tokens read off the image."""
        queries = self.query_tokens.expand(image_embeds.shape[0], -1, -1)
        return self.Qformer.bert(query_embeds=queries, encoder_hidden_states=image_embeds).last_hidden_state
