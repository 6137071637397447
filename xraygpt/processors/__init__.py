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
    "load_preprocess",
    "load_processor",
]

Processors = dict[str, BaseProcessor]


def load_processor(
    name: str, cfg: Mapping[str, Any] | None = None, preprocessing: Preprocessing | None = None
) -> BaseProcessor:
    """Build the processor registered as `name`; for the other two see `BaseProcessor.from_config`."""
    return registry.get_processor_class(name, BaseProcessor).from_config(cfg, preprocessing)


def load_preprocess(
    config: Mapping[str, Any] | None, preprocessing: Preprocessing | None = None
) -> tuple[Processors, Processors]:
    """Build the image and text processors of a ``preprocess`` section, each as {"train": …, "eval": …}.

    A kind that the section does not name leaves its input as it is.

    Args:
        preprocessing: what the vision encoder expects, for what the section leaves out.
    """
    section = config or {}
    return (
        _processors(section.get("vis_processor"), preprocessing),
        _processors(section.get("text_processor"), preprocessing),
    )


def _processors(node: Mapping[str, Any] | None, preprocessing: Preprocessing | None) -> Processors:
    nodes = node or {}
    identity = {"name": "identity"}
    return {
        split: load_processor((cfg := nodes.get(split) or identity)["name"], cfg, preprocessing)
        for split in ("train", "eval")
    }
