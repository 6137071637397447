"""The vision encoder as a part of a model: its settings, its weights, its place in a pass.

Shapes: B images, N image tokens, V their width.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from xraygpt.common.checkpoint import save_checkpoint
from xraygpt.common.errors import ConfigError
from xraygpt.common.hf_folder import fetched
from xraygpt.common.paths import HUB_PREFIX, Check, cached_file, file_check
from xraygpt.common.precision import vision_precision
from xraygpt.common.typed import ChoosesTypes
from xraygpt.datasets.feature_cache import FrozenPart
from xraygpt.models.adapters import AdapterConfig, adapter_checks, add_adapter, has_adapter, save_adapter
from xraygpt.models.base_model import BaseModel, freeze, is_frozen
from xraygpt.models.eva_vit import convert_weights_to_fp16
from xraygpt.models.parts import EncoderConfig, VisionEncoder, encoder_class, run_part
from xraygpt.processors import Preprocessing

logger = logging.getLogger(__name__)

BLIP2_FILES = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2"
"""Where BLIP-2's weights were published."""

EVA_CLIP_G = "eva_clip_g"


@dataclass
class VisionTowerConfig(ChoosesTypes):
    """Settings of the vision encoder, shared by all models on top of it.

    Those beside `vision` that override its keys are put into it.
    """

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
    """Another name of `img_size`, which the reference's YAML files use."""
    drop_path_rate: float | None = None
    """Stochastic depth of the vision encoder; none: that of `vision`."""
    use_grad_checkpoint: bool | None = None
    """Recompute the vision encoder's activations in the backward pass; none: that of `vision`."""
    vit_precision: str = "fp32"
    """Precision the vision encoder's weights are held in: fp32 or fp16 (frozen encoders only)."""
    freeze_vit: bool = True
    """Whether the vision encoder stays as loaded."""
    vit_adapter: AdapterConfig | None = None
    """A low-rank adapter in the vision encoder, which is frozen then."""

    @classmethod
    def field_types(cls, section: Mapping[str, Any]) -> dict[str, type]:
        kind, _ = encoder_class(str(section.get("vit_model") or EVA_CLIP_G))
        return {"vision": kind.config_class}

    def __post_init__(self) -> None:
        kind, name = encoder_class(self.vit_model)
        if type(self.vision) is EncoderConfig:
            self.vision = kind.config_class()
        if not isinstance(self.vision, kind.config_class):
            raise ValueError(f"vision holds settings of another encoder than vit_model {self.vit_model}")
        if self.vit_precision not in ("fp32", "fp16"):
            raise ValueError(f"vit_precision must be fp32 or fp16, not {self.vit_precision!r}")
        if self.vit_precision == "fp16" and not self.freeze_vit:
            raise ValueError("vit_precision fp16 needs freeze_vit: float16 weights cannot be trained safely")
        if None not in (self.img_size, self.image_size) and self.img_size != self.image_size:
            sizes = f"img_size {self.img_size} and image_size {self.image_size}"
            raise ValueError(f"{sizes} are two names for one thing")
        overriding: dict[str, Any] = {
            "img_size": self.img_size or self.image_size,
            "drop_path_rate": self.drop_path_rate,
            "use_grad_checkpoint": self.use_grad_checkpoint,
        }
        self.vision = replace(self.vision, **{k: v for k, v in overriding.items() if v is not None})
        kind.check(self.vision, name)

    def preprocessing(self) -> Preprocessing:
        """What images the encoder expects."""
        kind, name = encoder_class(self.vit_model)
        return kind.preprocessing_of(self.vision, name)


def preprocessing_for(model_config: object) -> Preprocessing | None:
    """What the vision encoder of a typed section ``model`` expects of its images; None without one."""
    return model_config.preprocessing() if isinstance(model_config, VisionTowerConfig) else None


def build_encoder(cfg: VisionTowerConfig) -> VisionEncoder:
    """The vision encoder of a configuration, with random weights in the number format that it asks for."""
    kind, name = encoder_class(cfg.vit_model)
    encoder = kind.from_config(cfg.vision, name)
    if cfg.vit_precision == "fp16":
        convert_weights_to_fp16(encoder)
    return encoder


class VisionTower(BaseModel):
    """Base of the models with a vision encoder; one that `cfg` freezes stays in evaluation mode."""

    visual_encoder: VisionEncoder
    ln_vision: nn.Module
    """The norm behind it, in models that have one."""

    def __init__(self, cfg: VisionTowerConfig, encoder: VisionEncoder) -> None:
        super().__init__()
        self.visual_encoder = encoder
        self._vision_settings = {"vit_model": cfg.vit_model, "vision": cfg.vision}
        if cfg.freeze_vit or cfg.vit_adapter:
            freeze(encoder)

    @classmethod
    def from_config(cls, cfg: Any, device: str | torch.device = "cpu") -> Self:
        precision = vision_precision(cfg.vit_precision, device)
        return super().from_config(replace(cfg, vit_precision=precision), device)

    @classmethod
    def with_random_weights(cls, cfg: Any, device: str | torch.device = "cpu") -> Self:
        return cls(cfg, build_encoder(cfg))

    @classmethod
    def part_checks(cls, cfg: Any) -> list[Check]:
        eva = cfg.vit_model == EVA_CLIP_G
        source = f"{BLIP2_FILES}/eva_vit_g.pth" if eva else f"where {cfg.vit_model} was published"
        weights = file_check("model.vit_ckpt", cfg.vit_ckpt, "weights of the vision encoder", source)
        return [weights, *adapter_checks(cfg.vit_adapter, "model.vit_adapter")]

    def load_parts(self, cfg: Any) -> None:
        if cfg.vit_ckpt is not None:
            self.load_vision_encoder(cfg.vit_ckpt)

    def add_adapters(self, cfg: Any) -> None:
        super().add_adapters(cfg)
        if cfg.vit_adapter is not None:
            encoder = self.visual_encoder
            add_adapter(encoder.network, cfg.vit_adapter, "model.vit_adapter", encoder.without_effect())

    def export_vision_encoder(self, folder: Path) -> None:
        """Write ``vit.pth``, or its adapter as the folder ``vit_adapter`` of peft's, if trained."""
        encoder = self.visual_encoder
        if has_adapter(encoder):
            save_adapter(encoder.network, folder / "vit_adapter", encoder.identity, {})
        elif not is_frozen(encoder):
            save_checkpoint(folder / "vit.pth", {"model": encoder.published_state()})

    def load_vision_encoder(self, url_or_filename: str | Path) -> None:
        """Load the vision encoder's weights, published ones or those of an own training.

        Raises MissingFileError, or CheckpointError for those of another encoder.
        """
        name = str(url_or_filename)
        is_folder = name.startswith(HUB_PREFIX) and name.count("/") == 3  # hf://owner/repository, no file
        path = fetched(name, "model.vit_ckpt") if is_folder else cached_file(name)
        self.visual_encoder.load(path)
        logger.info("vision encoder loaded from %s", path)

    def maybe_autocast(self, dtype: torch.dtype | None = None) -> AbstractContextManager[object]:
        """Autocast for an encoder with half-precision weights, on any device; nothing for float32 weights, or
        where the caller has switched autocast on already. `dtype` defaults to that of the weights."""
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

    def embed_image(self, image: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, N, V): vision encoder and the norm behind it."""
        return self.ln_vision(self.encode_patches(image))
