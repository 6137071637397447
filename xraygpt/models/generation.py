"""What becomes of what a language model computes: the loss, when a text ends, and what a report tells of
itself. `prompted_model` and the BERT decoders do the writing.

Shapes: B rows, n tokens written, T positions, D width, V vocabulary.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from xraygpt.common.generation import GenerationConfig as GenerationConfig
from xraygpt.models.prompts import IGNORE_INDEX

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

    The text itself is searched, since a tokenizer may merge a mark with the characters around it (``.###``).
    transformers' own `StopStringCriteria` does the same from a table of the vocabulary, and refuses strings
    for which it finds no token, such as "°" where that is written as two bytes.

    Args:
        stops: strings, e.g. ``["###"]``; empty ones are ignored.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.stops = [stop for stop in stops if stop]
        # Every token adds at least one byte, so a stop string lies within this many last tokens; the two
        # extra ones keep a leading-space marker, which decoding removes, away from the search.
        self.window = max((len(stop.encode()) for stop in self.stops), default=0) + 2

    def found(self, ids: Sequence[int]) -> bool:
        """Whether the text of these ids, special tokens left out, contains a stop string."""
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        return any(stop in text for stop in self.stops)

    def __call__(self, input_ids: Tensor, scores: Any = None, **kwargs: Any) -> Any:
        """input_ids (B, n), all of them generated, as prompts are embeddings -> bool (B,): rows done."""
        done = [self.found(row) for row in input_ids[:, -self.window :].tolist()]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first of the stop strings, without blanks at its ends."""
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)].strip() if ends else text.strip()


def ending(
    ids: Sequence[int],
    end_tokens: Collection[int],
    pad_token: int | None,
    holds_stop: Callable[[Sequence[int]], bool] = lambda ids: False,
) -> tuple[int, StopReason]:
    """How many of a row's new ids were written before the padding, and what ended them.

    Args:
        end_tokens: ids each of which ends a text.
        pad_token: fills the row behind its end; may be an end token.
        holds_stop: whether ids hold a stop string, which ends the text as soon as it does.
    """
    end = next((place for place, number in enumerate(ids) if number in end_tokens), len(ids))
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
        logits, targets = logits_of(rows).float().flatten(0, 1), ids[rows]
        log_probabilities = -F.cross_entropy(logits, targets.flatten(), reduction="none")
        counts = torch.tensor(list(lengths[rows]), device=ids.device)
        padding = torch.arange(ids.shape[1], device=ids.device) >= counts.unsqueeze(1)
        sums = log_probabilities.view(targets.shape).double().masked_fill(padding, 0.0).sum(dim=1)
        means += (sums / counts.clamp(min=1)).tolist()
    return means


def lm_loss(
    llm: PreTrainedModel, inputs_embeds: Tensor, attention_mask: Tensor, labels: Tensor, **positions: Tensor
) -> dict[str, Tensor]:
    """``loss``, mean cross entropy of the next token over the labelled positions in float32, and
    ``num_targets``, how many these are.

    inputs_embeds (B, T, D), attention_mask (B, T), or with ``position_ids`` as `packing.separate` gives them;
    labels (B, T), on the CPU, are `IGNORE_INDEX` where none counts. The output layer runs only at positions
    where some row of the batch has a label; these are found on the CPU, since a GPU would have to be waited
    for.
    """
    targets = labels[:, 1:]
    columns = (targets != IGNORE_INDEX).any(dim=0).nonzero().squeeze(1)  # (n,)
    device = inputs_embeds.device
    logits = llm(
        inputs_embeds=inputs_embeds.to(llm.dtype),
        attention_mask=attention_mask,
        use_cache=False,
        logits_to_keep=columns.to(device),
        **positions,
    ).logits  # (B, n, V)
    kept = targets[:, columns].flatten().to(device)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), kept, ignore_index=IGNORE_INDEX)
    return {"loss": loss, "num_targets": (kept != IGNORE_INDEX).sum()}


def without_begun_stop(text: str, stops: Sequence[str]) -> str:
    """`text` without a beginning of a stop string at its end, which the next token may complete."""
    for stop in stops:
        for length in range(len(stop) - 1, 0, -1):
            if text.endswith(stop[:length]):
                return text[:-length].rstrip()
    return text
