"""A model that records what it is asked and answers what it was told to: for tests of the code around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from xraygpt.common.generation import GenerationConfig
from xraygpt.conversation.messages import Conversation, trained_conversation


class Recorder:
    """One position per word, one per image."""

    end_sym = "###"
    max_positions = 1000
    device = torch.device("cpu")

    def __init__(self, reply: str = "Clear lungs.") -> None:
        self.reply = reply
        self.prompts: list[str] = []
        self.settings: dict[str, Any] = {}

    def new_conversation(self) -> Conversation:
        return trained_conversation("###Patient: {} ###Doctor: ", self.end_sym)

    def encode_img(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return image.mean().expand(1, 1, 4), torch.ones(1, 1)

    def embed_prompt(self, prompts: Sequence[str], img_embeds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        self.prompts.append(prompts[0])
        assert prompts[0].count("<ImageHere>") == len(img_embeds)
        length = len(prompts[0].split())
        return torch.zeros(1, length, 4), torch.ones(1, length)

    def complete(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        generation: GenerationConfig,
        stops: Sequence[str],
    ) -> tuple[list[str], Tensor]:
        self.settings = {"stops": stops, **asdict(generation)}
        return [self.reply], torch.tensor([[5, 6]])

    def complete_stream(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        generation: GenerationConfig,
        stops: Sequence[str],
    ) -> Iterator[str]:
        words = self.reply.split()
        yield from (" ".join(words[: n + 1]) for n in range(len(words)))
