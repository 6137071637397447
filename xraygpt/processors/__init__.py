"""Image and text processors: from a file's pixels or text to what a model takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xraygpt.common.registry import registry
from xraygpt.processors.base_processor import BaseProcessor, IdentityProcessor, Preprocessing
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
    "Preprocessing",
    "load_processor",
]


def load_processor(
    name: str, cfg: Mapping[str, Any] | None = None, preprocessing: Preprocessing | None = None
) -> BaseProcessor:
    """Build the processor registered as `name`; for the other two see `BaseProcessor.from_config`."""
    return registry.get_processor_class(name, BaseProcessor).from_config(cfg, preprocessing)
