"""What is done with a language model once its inputs are embedded: the loss, writing text, and telling of a
text how it came about.

Shapes: B rows, T positions, D width, V vocabulary. The settings of a generation are `GenerationConfig`.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig as HFGenerationConfig
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)
from transformers.generation.streamers import BaseStreamer

from xraygpt.common.generation import GenerationConfig as GenerationConfig
from xraygpt.models.llm import check_positions, embedding_table, end_token_ids
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

    def __call__(self, input_ids: Tensor, scores: Any = None, **kwargs: Any) -> Any:
        """input_ids (B, T), all of them generated, as prompts are embeddings -> bool (B,): rows done."""
        tails = self.tokenizer.batch_decode(input_ids[:, -self.window :].tolist(), skip_special_tokens=True)
        done = [any(stop in tail for stop in self.stops) for tail in tails]
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
        means += _means(logits_of(rows), ids[rows], lengths[rows])
    return means


def _means(logits: Tensor, ids: Tensor, lengths: Sequence[int]) -> list[float]:
    log_probabilities = -F.cross_entropy(logits.float().flatten(0, 1), ids.flatten(), reduction="none")
    counts = torch.tensor(list(lengths), device=ids.device)
    padding = torch.arange(ids.shape[1], device=ids.device) >= counts.unsqueeze(1)
    sums = log_probabilities.view(ids.shape).double().masked_fill(padding, 0.0).sum(dim=1)
    means: list[float] = (sums / counts.clamp(min=1)).tolist()
    return means


def lm_loss(
    llm: PreTrainedModel, inputs_embeds: Tensor, attention_mask: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """``loss``, mean cross entropy of the next token over the labelled positions in float32, and
    ``num_targets``, how many these are.

    inputs_embeds (B, T, D), attention_mask and labels (B, T); labels are `IGNORE_INDEX` where nothing is to
    be learnt. The output layer runs only at positions where some row of the batch has a label.
    """
    targets = labels[:, 1:]
    columns = (targets != IGNORE_INDEX).any(dim=0).nonzero().squeeze(1)  # (n,)
    logits = llm(
        inputs_embeds=inputs_embeds.to(llm.dtype),
        attention_mask=attention_mask,
        use_cache=False,
        logits_to_keep=columns,
    ).logits  # (B, n, V)
    kept = targets[:, columns].flatten()
    loss = F.cross_entropy(logits.flatten(0, 1).float(), kept, ignore_index=IGNORE_INDEX)
    return {"loss": loss, "num_targets": (kept != IGNORE_INDEX).sum()}


@torch.no_grad()
def write(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    generation: GenerationConfig,
    stops: Sequence[str] = (),
    streamer: BaseStreamer | None = None,
) -> tuple[list[str], Tensor]:
    """Continue embedded prompts; returns the texts, cut before the first stop string, and the ids (B, n).

    inputs_embeds (B, T, D) with padding on the left, attention_mask (B, T). Raises ConfigError if the
    language model has not enough positions for `generation.max_new_tokens`.
    """
    check_positions(llm, inputs_embeds.shape[1], generation.max_new_tokens, "max_new_tokens")
    criteria = StoppingCriteriaList([StopOnText(tokenizer, stops)] if any(stops) else [])
    generate: Any = llm.generate
    ids: Tensor = generate(
        inputs_embeds=inputs_embeds.to(llm.dtype),
        attention_mask=attention_mask,
        generation_config=HFGenerationConfig(
            **generation.as_kwargs(),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=end_token_ids(llm, tokenizer, stops),
            pad_token_id=tokenizer.pad_token_id,
        ),
        stopping_criteria=criteria,
        streamer=streamer,
    )
    texts = tokenizer.batch_decode(ids.tolist(), skip_special_tokens=True)
    return [cut_at_stop(text, stops) for text in texts], ids


@torch.no_grad()
def write_reports(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    generation: GenerationConfig,
    stops: Sequence[str] = (),
) -> list[GeneratedReport]:
    """Like `write`, but tells of each text how it came about; shapes as there."""

    def holds_stop(row: Sequence[int]) -> bool:
        text = str(tokenizer.decode(list(row), skip_special_tokens=True))
        return any(stop in text for stop in stops if stop)

    texts, ids = write(llm, tokenizer, inputs_embeds, attention_mask, generation, stops)
    end_tokens = end_token_ids(llm, tokenizer, stops)
    ends = [ending(row, end_tokens, tokenizer.pad_token_id, holds_stop) for row in ids.tolist()]
    means = mean_log_probabilities(
        lambda rows: _logits(llm, inputs_embeds[rows], attention_mask[rows], ids[rows]),
        ids,
        [length for length, _ in ends],
    )
    return [
        GeneratedReport(text, length, reason, mean)
        for text, (length, reason), mean in zip(texts, ends, means, strict=True)
    ]


def _logits(llm: PreTrainedModel, inputs_embeds: Tensor, attention_mask: Tensor, ids: Tensor) -> Tensor:
    """The logits (B, n, V) of each of the ids (B, n) behind a prompt (B, T, D)."""
    embeds = torch.cat([inputs_embeds, embedding_table(llm)(ids).to(inputs_embeds.dtype)], dim=1)[:, :-1]
    mask = torch.cat([attention_mask, attention_mask.new_ones(ids.shape)], dim=1)[:, :-1]
    start = inputs_embeds.shape[1] - 1
    logits: Tensor = llm(
        inputs_embeds=embeds.to(llm.dtype),
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=torch.arange(start, embeds.shape[1], device=ids.device),
    ).logits
    return logits


def write_stream(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    generation: GenerationConfig,
    stops: Sequence[str] = (),
) -> Iterator[str]:
    """Like `write` for one row, but yields the growing text, word by word; the last item is the whole answer.

    A beam search changes its mind about what was written, so with beams only the answer is yielded.
    """
    if generation.num_beams > 1:
        yield write(llm, tokenizer, inputs_embeds, attention_mask, generation, stops)[0][0]
        return
    streamer = TextIteratorStreamer(tokenizer, skip_special_tokens=True)
    answers: list[str] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.extend(
                write(llm, tokenizer, inputs_embeds, attention_mask, generation, stops, streamer)[0]
            )
        except BaseException as error:  # raised again in the caller's thread
            errors.append(error)
        finally:
            # Not `end`, which decodes what it has first and, if that fails, leaves the caller waiting.
            streamer.on_finalized_text("", stream_end=True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    written, shown = "", None
    for piece in streamer:
        written += piece
        text = _without_begun_stop(cut_at_stop(written, stops), stops)
        if text != shown:
            shown = text
            yield text
    thread.join()
    if errors:
        raise errors[0]
    if answers[0] != shown:
        yield answers[0]


def _without_begun_stop(text: str, stops: Sequence[str]) -> str:
    """`text` without a beginning of a stop string at its end, which the next token may complete."""
    for stop in stops:
        for length in range(len(stop) - 1, 0, -1):
            if text.endswith(stop[:length]):
                return text[:-length].rstrip()
    return text
