"""A model that answers at once, for tests of the demo around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from tests.conversation.recorder import Recorder
from xraygpt.common.generation import GenerationConfig


class Talker(Recorder):
    """Answers every question with the brightness of the image."""

    max_positions = 60

    def embed_prompt(self, prompts: Sequence[str], img_embeds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        embeds, mask = super().embed_prompt(prompts, img_embeds)
        return embeds + img_embeds[0].mean(), mask

    def complete_stream(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        generation: GenerationConfig,
        stops: Sequence[str],
    ) -> Iterator[str]:
        self.reply = f"Brightness {float(inputs_embeds.mean()):.0f}"
        self.complete(inputs_embeds, attention_mask, generation, stops)  # takes note of the settings
        yield from super().complete_stream(inputs_embeds, attention_mask, generation, stops)
