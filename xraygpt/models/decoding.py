"""What is done with a language model once its inputs are embedded: the loss, and writing text.

Shapes: B rows, T positions, D width, V vocabulary.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    GenerationConfig as HFGenerationConfig,
)
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from xraygpt.models.generation import (
    GeneratedReport,
    GenerationConfig,
    StopOnText,
    cut_at_stop,
    ending,
    mean_log_probabilities,
)
from xraygpt.models.llm import embedding_table
from xraygpt.models.prompts import IGNORE_INDEX


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

    inputs_embeds (B, T, D) with padding on the left, attention_mask (B, T).
    """
    criteria = StoppingCriteriaList([StopOnText(tokenizer, stops)] if any(stops) else [])
    generate: Any = llm.generate
    ids: Tensor = generate(
        inputs_embeds=inputs_embeds.to(llm.dtype),
        attention_mask=attention_mask,
        generation_config=_for_transformers(tokenizer, generation),
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
    ends = [ending(row, tokenizer.eos_token_id, tokenizer.pad_token_id, holds_stop) for row in ids.tolist()]
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
    """Like `write` for one row, but yields the growing text; the last item is the whole answer.

    A beam search changes its mind about what was written, so with beams only the answer is yielded.
    """
    if generation.num_beams > 1:
        yield write(llm, tokenizer, inputs_embeds, attention_mask, generation, stops)[0][0]
        return
    streamer = _TokenQueue()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            write(llm, tokenizer, inputs_embeds, attention_mask, generation, stops, streamer)
        except BaseException as error:  # raised again in the caller's thread
            errors.append(error)
        finally:
            streamer.end()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ids: list[int] = []
    shown: str | None = None
    for token in streamer:
        ids.append(token)
        text = cut_at_stop(str(tokenizer.decode(ids, skip_special_tokens=True)), stops)
        text = _without_begun_stop(text, stops)
        if text != shown and not text.endswith("\N{REPLACEMENT CHARACTER}"):
            shown = text
            yield text
    thread.join()
    if errors:
        raise errors[0]
    final = cut_at_stop(str(tokenizer.decode(ids, skip_special_tokens=True)), stops)
    if final != shown:
        yield final


class _TokenQueue(BaseStreamer):
    """Hands token ids from the generating thread to the one that shows them."""

    def __init__(self) -> None:
        self._tokens: queue.Queue[int | None] = queue.Queue()

    def put(self, value: Tensor) -> None:
        for token in value.flatten().tolist():
            self._tokens.put(token)

    def end(self) -> None:
        self._tokens.put(None)

    def __iter__(self) -> Iterator[int]:
        while (token := self._tokens.get()) is not None:
            yield token


def _without_begun_stop(text: str, stops: Sequence[str]) -> str:
    """`text` without a beginning of a stop string at its end, which the next token may complete."""
    for stop in stops:
        for length in range(len(stop) - 1, 0, -1):
            if text.endswith(stop[:length]):
                return text[:-length].rstrip()
    return text


def _for_transformers(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig) -> HFGenerationConfig:
    return HFGenerationConfig(
        **generation.as_kwargs(),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
