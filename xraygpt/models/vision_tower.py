"""The vision encoder as a part of a model: its settings, its weights, its place in a pass.

Shapes: B images, N image tokens, V their width.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from xraygpt.common.errors import ConfigError, UnknownNameError
from xraygpt.common.typed import ChoosesTypes
from xraygpt.models.base_model import BaseModel, Check, FrozenPart, file_check, freeze, is_frozen
from xraygpt.models.eva_vit import convert_weights_to_fp16
from xraygpt.models.parts import EncoderConfig, VisionEncoder, encoder_class, run_part
from xraygpt.processors import Preprocessing

logger = logging.getLogger(__name__)

BLIP2_FILES = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2"
"""Where BLIP-2's weights were published."""

EVA_CLIP_G = "eva_clip_g"
EVA_VIT_G_URL = f"{BLIP2_FILES}/eva_vit_g.pth"

WITHOUT_WEIGHTS = ("vit_model", "vision", "img_size", "image_size")
"""Keys that decide, beside the weights, what an encoder that is frozen makes of an image."""


@dataclass
class VisionTowerConfig(ChoosesTypes):
    """Settings of the vision encoder, shared by all models on top of it."""

    BELONGS_TO: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "vit_model": (
            *("vision", "vit_ckpt", "img_size", "image_size", "drop_path_rate", "use_grad_checkpoint"),
            *("q_former_model", "ckpt"),
        )
    }

    vit_model: str = EVA_CLIP_G
    """Kind of vision encoder: eva_clip_g, medclip, timm:NAME, hf:FOLDER_OR_ID, or one of your own."""
    vision: EncoderConfig = field(default_factory=EncoderConfig)
    """Settings of the vision encoder; what they are depends on `vit_model`."""
    vit_ckpt: str | None = None
    """Weights of the vision encoder (file, folder, address or hf:// name); none: random."""
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

    @classmethod
    def field_types(cls, section: Mapping[str, Any]) -> dict[str, type]:
        return {"vision": _encoder_class(section.get("vit_model") or EVA_CLIP_G)[0].config_class}

    def __post_init__(self) -> None:
        kind, name = _encoder_class(self.vit_model)
        if type(self.vision) is EncoderConfig:
            self.vision = kind.config_class()
        if not isinstance(self.vision, kind.config_class):
            raise ValueError(f"vision holds settings of another encoder than vit_model {self.vit_model}")
        if self.vit_precision not in ("fp32", "fp16"):
            raise ValueError(f"vit_precision must be fp32 or fp16, not {self.vit_precision!r}")
        if self.vit_precision == "fp16" and not self.freeze_vit:
            raise ValueError("vit_precision fp16 needs freeze_vit: float16 weights cannot be trained safely")
        if None not in (self.img_size, self.image_size) and self.img_size != self.image_size:
            raise ValueError(
                f"img_size {self.img_size} and image_size {self.image_size} are two names for one thing"
            )
        kind.check(self.vision_config(), name)

    def vision_config(self) -> Any:
        """`vision` with the keys that override it applied, an instance of the encoder's `config_class`."""
        vision = self.vision
        rate, recompute = self.drop_path_rate, self.use_grad_checkpoint
        return replace(
            vision,
            img_size=self.img_size or self.image_size or vision.img_size,
            drop_path_rate=vision.drop_path_rate if rate is None else rate,
            use_grad_checkpoint=vision.use_grad_checkpoint if recompute is None else recompute,
        )

    def preprocessing(self) -> Preprocessing:
        """What images the encoder expects."""
        kind, name = encoder_class(self.vit_model)
        return kind.preprocessing_of(self.vision_config(), name)


def _encoder_class(vit_model: object) -> tuple[type[VisionEncoder], str]:
    try:
        return encoder_class(str(vit_model))
    except UnknownNameError as error:
        raise ValueError(f"vit_model: {error}") from error


def preprocessing_for(model_config: object) -> Preprocessing | None:
    """What the vision encoder of a typed section ``model`` expects of its images; None without one."""
    return model_config.preprocessing() if isinstance(model_config, VisionTowerConfig) else None


def build_encoder(cfg: VisionTowerConfig) -> VisionEncoder:
    """The vision encoder of a configuration, with random weights in the number format that it asks for."""
    kind, name = encoder_class(cfg.vit_model)
    encoder = kind.from_config(cfg.vision_config(), name)
    if cfg.vit_precision == "fp16":
        convert_weights_to_fp16(encoder)
    return encoder


class VisionTower(BaseModel):
    """Base of the models with a vision encoder.

    Args:
        cfg: says whether the encoder is frozen; `train()` then leaves it in evaluation mode.
    """

    visual_encoder: VisionEncoder

    def __init__(self, cfg: VisionTowerConfig, encoder: VisionEncoder) -> None:
        super().__init__()
        self.visual_encoder = encoder
        self._vision_settings = {key: getattr(cfg, key) for key in WITHOUT_WEIGHTS}
        if cfg.freeze_vit:
            freeze(encoder)

    @classmethod
    def vision_check(cls, cfg: VisionTowerConfig) -> Check:
        """The check of the file that `load_vision_encoder` reads, for `require_all`."""
        source = EVA_VIT_G_URL if cfg.vit_model == EVA_CLIP_G else f"where {cfg.vit_model} was published"
        return file_check("model.vit_ckpt", cfg.vit_ckpt, "weights of the vision encoder", source)

    def load_vision_encoder(self, url_or_filename: str) -> None:
        """Load the vision encoder's weights, published ones or those of an own training.

        Raises:
            MissingFileError: they are not there.
            CheckpointError: they are of another encoder.
        """
        path = self.visual_encoder.locate(str(url_or_filename))
        self.visual_encoder.load(path)
        logger.info("vision encoder loaded from %s", path)

    def maybe_autocast(self, dtype: torch.dtype | None = None) -> AbstractContextManager[object]:
        """Autocast for a vision encoder with half-precision weights, on any device.

        Does nothing for float32 weights or where the caller has switched autocast on already. `dtype`
        defaults to that of the encoder's weights.
        """
        device_type = self.device.type
        if dtype is None:
            half = any(parameter.dtype == torch.float16 for parameter in self.visual_encoder.parameters())
            dtype = torch.float16 if half else torch.float32
        if dtype == torch.float32 or torch.is_autocast_enabled(device_type):
            return nullcontext()
        return torch.autocast(device_type, dtype=dtype)

    def encode_patches(self, image: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, N, V): what the encoder gives, without a graph if it is frozen.

        Features, which are that already, are returned.
        """
        if image.dim() == 3:
            return image
        with self.maybe_autocast():
            return run_part(self.visual_encoder, image)

    def frozen_part(self) -> FrozenPart:
        """The vision encoder."""
        encoder = self.visual_encoder
        if not is_frozen(encoder):
            raise ConfigError(
                "run.feature_cache: the vision encoder is trained, so every step changes what it makes of an "
                "image; set model.freeze_vit to true, or leave run.feature_cache out"
            )
        shape = (encoder.num_tokens, encoder.width)
        modules = {"visual_encoder": encoder}
        return FrozenPart("vision encoder", self.encode_patches, shape, modules, self._vision_settings)
