"""What a generated report is; stopping at a string, whatever the tokenizer.

The settings of a generation are `GenerationConfig`.

The reference stops at two hard-coded token sequences for ``###``. A tokenizer may merge the mark with the
characters around it (``.###``), so here the newly generated text itself is searched.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from xraygpt.common.generation import GenerationConfig

__all__ = [
    "GeneratedReport",
    "GenerationConfig",
    "StopOnText",
    "StopReason",
    "cut_at_stop",
    "ending",
    "mean_log_probabilities",
]

ROWS_WEIGHED = 8
"""Rows whose logits over the whole vocabulary are in memory at once."""
StopReason = Literal["stop_string", "end_token", "length"]


@dataclass(frozen=True, slots=True)
class GeneratedReport:
    """A generated text and how it came about."""

    text: str
    """Without stop string and end token."""
    tokens: int
    """Tokens written, those of the stop string or the end token included."""
    stop_reason: StopReason
    """What ended the text; "length": the limit of tokens was reached."""
    mean_log_probability: float
    """Mean over these tokens of the natural logarithm of the probability that the model gives each after
    those before it: in float32, before temperature, nucleus, penalties and minimal length; 0 without
    tokens."""


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


def ending(
    ids: Sequence[int],
    end_token: int | None,
    pad_token: int | None,
    holds_stop: Callable[[Sequence[int]], bool] = lambda ids: False,
) -> tuple[int, StopReason]:
    """How many of a row's new ids were written before the padding, and what ended them.

    Args:
        pad_token: fills the row behind its end; may be the end token.
        holds_stop: whether ids hold a stop string, which ends the text as soon as it does.
    """
    end = ids.index(end_token) if end_token in ids else len(ids)
    if holds_stop(ids[:end]):
        while ids[end - 1] == pad_token:
            end -= 1
        return end, "stop_string"
    return (end + 1, "end_token") if end < len(ids) else (end, "length")


def mean_log_probabilities(
    logits_of: Callable[[slice], Tensor], ids: Tensor, lengths: Sequence[int]
) -> list[float]:
    """Mean log-probability of the first `lengths` ids of each row of ids (B, n); 0 for a length of 0.

    The finished text is weighed in one pass of the model: searching and sampling change the scores on their
    way, and would have to keep those of every step.

    Args:
        logits_of: rows of the batch -> the model's logits of these rows' ids, (rows, n, V).
    """
    means: list[float] = []
    for first in range(0, len(ids), ROWS_WEIGHED):
        rows = slice(first, first + ROWS_WEIGHED)
        means += _means(logits_of(rows), ids[rows], lengths[rows])
    return means


def _means(logits: Tensor, ids: Tensor, lengths: Sequence[int]) -> list[float]:
    log_probabilities = -F.cross_entropy(logits.float().flatten(0, 1), ids.flatten(), reduction="none")
    counts = torch.tensor(list(lengths), device=ids.device)
    padding = torch.arange(ids.shape[1], device=ids.device) >= counts.unsqueeze(1)
    sums = log_probabilities.view(ids.shape).double().masked_fill(padding, 0.0).sum(dim=1)
    means: list[float] = (sums / counts.clamp(min=1)).tolist()
    return means
