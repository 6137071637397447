"""Models by name: ``load_model_and_preprocess("mini_gpt4", "tiny")``. Importing this registers them."""

import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from xraygpt.common.registry import registry
from xraygpt.models.base_model import BaseModel
from xraygpt.models.blip2_qformer import Blip2Qformer
from xraygpt.models.blip_caption import BlipCaption
from xraygpt.models.blip_pretrain import BlipPretrain
from xraygpt.models.causal_lm import CausalLM
from xraygpt.models.generation import GenerationConfig
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.models.vision_tower import preprocessing_for
from xraygpt.models.vit_classifier import ViTClassifier
from xraygpt.processors import Processors, load_preprocess

__all__ = [
    "BaseModel",
    "Blip2Qformer",
    "BlipCaption",
    "BlipPretrain",
    "CausalLM",
    "GenerationConfig",
    "MiniGPT4",
    "ModelZoo",
    "ViTClassifier",
    "load_model",
    "load_model_and_preprocess",
    "load_preprocess",
    "model_zoo",
]

logger = logging.getLogger(__name__)


def load_model(
    name: str,
    model_type: str,
    is_eval: bool = False,
    device: str | torch.device = "cpu",
    checkpoint: str | Path | None = None,
) -> BaseModel:
    """Build a model with the defaults of its type and load its weights.

    Args:
        name: registered name, e.g. "mini_gpt4".
        model_type: one of its types, e.g. "tiny"; see `model_zoo`.
        is_eval: put it into evaluation mode.
        device: where it runs, which decides the number formats too.
        checkpoint: a further checkpoint, loaded over the type's own weights.

    Raises:
        UnknownNameError: no such name or type.
        MissingFileError, CheckpointError: weights that are not there, or do not fit.
    """
    model = registry.get_model_class(name, BaseModel).from_pretrained(model_type, device=device)
    if checkpoint is not None:
        model.load_checkpoint(checkpoint)
    return model.to(device).train(not is_eval)


def load_model_and_preprocess(
    name: str,
    model_type: str,
    is_eval: bool = False,
    device: str | torch.device = "cpu",
    checkpoint: str | Path | None = None,
) -> tuple[BaseModel, Processors, Processors]:
    """`load_model`, with the image and text processors that go with this type."""
    cls = registry.get_model_class(name, BaseModel)
    vis_processors, text_processors = load_preprocess(
        cls.default_config(model_type).get("preprocess"), preprocessing_for(cls.type_config(model_type))
    )
    return load_model(name, model_type, is_eval, device, checkpoint), vis_processors, text_processors


class ModelZoo:
    """The registered architectures and their types; printing it shows them as a table."""

    @property
    def model_zoo(self) -> dict[str, list[str]]:
        return {
            name: sorted(registry.get_model_class(name).PRETRAINED_MODEL_CONFIG_DICT)
            for name in registry.list_models()
        }

    def __str__(self) -> str:
        zoo = self.model_zoo
        width = max(map(len, zoo)) + 2
        lines = [f"{'Architecture':<{width}}Types", "-" * (width + 24)]
        return "\n".join(lines + [f"{name:<{width}}{', '.join(types) or '-'}" for name, types in zoo.items()])

    def __iter__(self) -> Iterator[tuple[str, list[str]]]:
        return iter(self.model_zoo.items())

    def __len__(self) -> int:
        """Number of types over all architectures."""
        return sum(len(types) for types in self.model_zoo.values())


model_zoo = ModelZoo()
