"""A model that answers at once, for tests of what goes on around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from xraygpt.common.generation import GenerationConfig


class Talker:
    """Answers every question with the brightness of the image; one position for each word."""

    prompt_template = "###Patient: {} ###Doctor: "
    end_sym = "###"
    max_positions = 60
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.settings: dict[str, Any] = {}

    def encode_img(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return image.mean().expand(1, 1, 4), torch.ones(1, 1)

    def embed_prompt(self, prompts: Sequence[str], img_embeds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        self.prompts.append(prompts[0])
        length = len(prompts[0].split())
        return img_embeds[0].mean().expand(1, length, 4), torch.ones(1, length)

    def complete(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        generation: GenerationConfig,
        stops: Sequence[str],
    ) -> tuple[list[str], Tensor]:
        raise NotImplementedError("the demo streams")

    def complete_stream(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        generation: GenerationConfig,
        stops: Sequence[str],
    ) -> Iterator[str]:
        self.settings = asdict(generation)
        yield "Brightness"
        yield f"Brightness {float(inputs_embeds.mean()):.0f}"
