"""Image and text processors: from a file's pixels or text to what a model takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xraygpt.common.registry import registry
from xraygpt.processors.base_processor import BaseProcessor, IdentityProcessor
from xraygpt.processors.blip_processors import (
    Blip2ImageEvalProcessor,
    Blip2ImageTrainProcessor,
    BlipCaptionProcessor,
    BlipImageBaseProcessor,
)

__all__ = [
    "BaseProcessor",
    "Blip2ImageEvalProcessor",
    "Blip2ImageTrainProcessor",
    "BlipCaptionProcessor",
    "BlipImageBaseProcessor",
    "IdentityProcessor",
    "load_processor",
]


def load_processor(name: str, cfg: Mapping[str, Any] | None = None) -> BaseProcessor:
    """Build the processor registered as `name` from the settings in `cfg` (a key ``name`` is ignored)."""
    return registry.get_processor_class(name, BaseProcessor).from_config(cfg)
