"""The base of all processors, and the one that changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from xraygpt.common.config import build_typed
from xraygpt.common.registry import registry

CLIP_MEAN: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocessing:
    """What a vision encoder expects of its images; the default is CLIP's at 224 pixels."""

    image_size: int = 224
    """Side of the square image in pixels."""
    mean: tuple[float, float, float] = CLIP_MEAN
    """Mean of each colour channel, 0-1."""
    std: tuple[float, float, float] = CLIP_STD
    """Standard deviation of each colour channel, 0-1."""
    interpolation: str = "bicubic"
    """How images are resized: "bicubic", "bilinear", "lanczos" or "nearest"."""


@dataclass
class ProcessorConfig:
    """Settings of a processor that has none."""


class BaseProcessor:
    """A callable from one item (an image, a text) to one item; the base class changes nothing.

    A subclass names its settings in `config_class`; its constructor takes them by the same names.
    """

    config_class: ClassVar[type] = ProcessorConfig
    settings: Mapping[str, Any] = {}
    """What `from_config` has built it with."""
    decode_size: int | None = None
    """Shorter side in pixels, below which an image file should not be decoded; None means full size."""

    def __call__(self, item: Any) -> Any:
        return item

    @classmethod
    def from_config(
        cls, cfg: Mapping[str, Any] | None = None, preprocessing: Preprocessing | None = None
    ) -> Self:
        """Build from a YAML node; its key ``name`` is ignored.

        Args:
            preprocessing: stands in for those of its fields that the node leaves out or null.

        Raises:
            ConfigError: for an unknown key or a value that breaks a rule.
        """
        node = {key: value for key, value in (cfg or {}).items() if key != "name"}
        settings = asdict(build_typed(cls.config_class, node, where=cls.__name__))
        for key, value in asdict(preprocessing or Preprocessing()).items():
            if key in settings and settings[key] is None:
                settings[key] = value
        processor = cls(**settings)
        processor.settings = settings
        return processor

    @classmethod
    def build(cls, **kwargs: Any) -> Self:
        """Build from keyword arguments, checked like a YAML node."""
        return cls.from_config(kwargs)


@registry.register_processor("identity")
class IdentityProcessor(BaseProcessor):
    """Leaves the text as it is.

    This is what XrayGPT was trained with: its configuration names ``blip_caption``, but its data sets never
    apply it, so that reports keep their case, punctuation and length.
    """
