"""Outputs of BLIP-2's first stage. Each is also a dictionary of the fields that are set."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils.generic import ModelOutput


@dataclass
class BlipOutput(ModelOutput):
    """The losses of the first stage, all scalars."""

    loss: Tensor | None = None
    loss_itc: Tensor | None = None
    loss_itm: Tensor | None = None
    loss_lm: Tensor | None = None


@dataclass
class BlipOutputFeatures(ModelOutput):
    """Features of B samples with Q query tokens or L text tokens, D hidden size, E shared embedding size.

    Those of the shared space have unit length.
    """

    image_embeds: Tensor | None = None  # (B, Q, D)
    image_embeds_proj: Tensor | None = None  # (B, Q, E)
    text_embeds: Tensor | None = None  # (B, L, D)
    text_embeds_proj: Tensor | None = None  # (B, L, E)
    multimodal_embeds: Tensor | None = None  # (B, Q, D)
