"""How text is generated: the settings, and stopping at a string whatever the tokenizer.

The reference stops at two hard-coded token sequences for ``###``. A tokenizer may merge the mark with the
characters around it (``.###``), so here the newly generated text itself is searched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria


@dataclass
class GenerationConfig:
    """Settings of one generation; the default is greedy."""

    max_new_tokens: int = 300
    """Most tokens an answer may have."""
    min_length: int = 1
    """Fewest tokens an answer may have before the end-of-text token is allowed."""
    num_beams: int = 1
    """Beams of the search; 1 is greedy (or sampling)."""
    do_sample: bool = False
    """Draw tokens at random, with `temperature` and `top_p`, instead of taking the likeliest."""
    top_p: float = 0.9
    """Sampling: draw from the likeliest tokens that together have this probability."""
    temperature: float = 1.0
    """Sampling: below 1 sharpens, above 1 flattens the distribution."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that were already generated less likely; 1 is off."""
    length_penalty: float = 1.0
    """Beam search: exponent of the length by which scores are divided; above 0 favours long answers."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError("max_new_tokens must be at least 1")
        if self.min_length < 0:
            raise ValueError("min_length must not be negative")
        if self.num_beams < 1:
            raise ValueError("num_beams must be at least 1")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError("top_p must lie above 0 and at most at 1")
        if self.temperature <= 0.0:
            raise ValueError("temperature must be positive; for greedy answers set do_sample: false")
        if self.repetition_penalty <= 0.0:
            raise ValueError("repetition_penalty must be positive")

    def as_kwargs(self) -> dict[str, Any]:
        """Arguments of transformers' `generate`; those without a use in the chosen mode are left out."""
        kwargs: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "min_new_tokens": min(self.min_length, self.max_new_tokens),
            "num_beams": self.num_beams,
            "do_sample": self.do_sample,
            "repetition_penalty": self.repetition_penalty,
        }
        if self.do_sample:
            kwargs |= {"top_p": self.top_p, "temperature": self.temperature, "top_k": 0}
        if self.num_beams > 1:
            kwargs["length_penalty"] = self.length_penalty
        return kwargs


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
