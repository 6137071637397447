"""The vision encoder with the layer norm behind it, as all models that look at images have it.

Shapes: B images, N image tokens, V their width.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xraygpt.common.checkpoint import load_state, load_weights
from xraygpt.common.errors import CheckpointError
from xraygpt.common.paths import cached_file
from xraygpt.models.base_model import BaseModel, Check, file_check, freeze, is_frozen
from xraygpt.models.eva_vit import (
    VisionConfig,
    VisionTransformer,
    convert_weights_to_fp16,
    create_vision_encoder,
    interpolate_pos_embed,
)
from xraygpt.models.key_translation import HF_LANGUAGE_MODEL, from_hf_blip2, translate_eva_keys

logger = logging.getLogger(__name__)

BLIP2_FILES = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2"
"""Where BLIP-2's weights were published."""

EVA_VIT_G_URL = f"{BLIP2_FILES}/eva_vit_g.pth"

VISION_ENCODERS = ("eva_clip_g",)
"""Names of vision encoders; one architecture so far, at any size."""


@dataclass
class VisionTowerConfig:
    """Settings of the vision encoder, shared by all models on top of it."""

    vit_model: str = "eva_clip_g"
    """Kind of vision encoder."""
    vision: VisionConfig = field(default_factory=VisionConfig)
    """Sizes of the vision encoder."""
    vit_ckpt: str | None = None
    """Weights of the vision encoder (file, address, hf:// name, or folder of Hugging Face's BLIP-2); none:
    random."""
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


class LayerNorm(nn.LayerNorm):
    """Layer norm (eps 1e-5) computed in float32 whatever the input's dtype, which the output has again."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
        return out.to(x.dtype)


class VisionTower(BaseModel):
    """Base of the models with a vision encoder.

    Subclasses call `init_vision`. A part is frozen with `base_model.freeze`; `train()` then leaves it in
    evaluation mode.
    """

    visual_encoder: VisionTransformer
    ln_vision: LayerNorm

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

    def init_vision(self, cfg: VisionTowerConfig) -> None:
        """Build vision encoder and ln_vision, without loading weights.

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

    @classmethod
    def vision_check(cls, cfg: VisionTowerConfig) -> Check:
        """The check of the file that `load_vision_encoder` reads, for `require_all`."""
        return file_check("model.vit_ckpt", cfg.vit_ckpt, "weights of the vision encoder", EVA_VIT_G_URL)

    def load_vision_encoder(self, url_or_filename: str | Path) -> None:
        """Load the vision encoder from a file, or from a folder of Hugging Face's BLIP-2.

        The position embedding is resized to this image size if need be.
        """
        path = cached_file(url_or_filename)
        state = translate_eva_keys(image_half(path), depth=len(self.visual_encoder.blocks))
        try:
            interpolate_pos_embed(self.visual_encoder, state)
        except ValueError as error:
            raise CheckpointError(
                f"{path} does not fit the vision encoder of model.vision: {error}"
            ) from error
        load_state(self.visual_encoder, state, where=str(path))
        logger.info("vision encoder loaded from %s", path)

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


def image_half(path: Path) -> dict[str, Tensor]:
    """The weights in a file or folder, by the keys of this package, without those of a language model."""
    return from_hf_blip2(load_weights(path, skip=(HF_LANGUAGE_MODEL,)))
