"""The settings of one generation, which configurations, models and chats share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


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

    def choose(self, num_beams: int, temperature: float) -> GenerationConfig:
        """These settings with a user's choice: one beam takes the likeliest token at temperature 0 and draws
        tokens above; several beams search without chance, whatever the temperature.
        """
        sample = num_beams == 1 and temperature > 0
        return replace(
            self, num_beams=num_beams, do_sample=sample, temperature=temperature if sample else 1.0
        )

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
