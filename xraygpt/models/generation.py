"""Stopping at a string, whatever the tokenizer; the settings of a generation are `GenerationConfig`.

The reference stops at two hard-coded token sequences for ``###``. A tokenizer may merge the mark with the
characters around it (``.###``), so here the newly generated text itself is searched.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from xraygpt.common.generation import GenerationConfig

__all__ = ["GenerationConfig", "StopOnText", "cut_at_stop"]


class StopOnText(StoppingCriteria):
    """Ends a row as soon as its generated text contains one of `stops`.

    Args:
        stops: strings, e.g. ``["###"]``; empty ones are ignored.
        prompt_length: number of leading ids that are not generated (0 when generating from embeddings).
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], prompt_length: int = 0
    ) -> None:
        self.tokenizer = tokenizer
        self.stops = [stop for stop in stops if stop]
        self.prompt_length = prompt_length
        # Every token adds at least one byte, so a stop string lies within this many last tokens; the two
        # extra ones keep a leading-space marker, which decoding removes, away from the search.
        self.window = max((len(stop.encode()) for stop in self.stops), default=0) + 2

    def __call__(self, input_ids: Tensor, scores: Any = None, **kwargs: Any) -> Any:
        """input_ids (B, T) -> bool (B,): which rows are done."""
        start = max(self.prompt_length, input_ids.shape[1] - self.window)
        tails = self.tokenizer.batch_decode(input_ids[:, start:].tolist(), skip_special_tokens=True)
        done = [any(stop in tail for stop in self.stops) for tail in tails]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first of the stop strings, without blanks at its ends."""
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)].strip() if ends else text.strip()
