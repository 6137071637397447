"""Writing text token by token with a cache: greedy, sampling and beam search for the BERT decoders.

Small and explicit, because these decoders start from a cache (the query tokens), which transformers'
`generate` does not take. The numbers are those of transformers 4.28, which BLIP-2 was published with:
lengths count the given start tokens; a beam's score is its summed log-probability divided by
length ** length_penalty, the end token not counted.

Shapes: B sequences, K beams, V vocabulary, T tokens so far.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from xraygpt.common.errors import ConfigError
from xraygpt.common.generation import GenerationConfig
from xraygpt.models.generation import GeneratedReport, ending, mean_log_probabilities


class ReorderableCache(Protocol):
    """What a search needs of a key/value cache: its batch rows picked and rearranged."""

    def reorder(self, rows: Tensor) -> Self: ...


Step = Callable[[Tensor, ReorderableCache], tuple[Tensor, ReorderableCache]]
"""New tokens (B, t) and the cache before them -> logits of the token after the last, (B, V), new cache."""


@dataclass(frozen=True)
class SearchSettings:
    """How to search; lengths are in tokens and include the start tokens."""

    max_length: int
    eos_token_id: int | None
    pad_token_id: int = 0
    min_length: int = 0
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    do_sample: bool = False
    top_p: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.do_sample and self.num_beams > 1:
            raise ValueError(
                "sampling and beam search exclude each other: set do_sample or num_beams, not both"
            )
        if self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences {self.num_return_sequences} exceeds num_beams {self.num_beams}"
            )

    @classmethod
    def of(
        cls,
        generation: GenerationConfig,
        *,
        start_length: int,
        longest: int,
        eos_token_id: int,
        pad_token_id: int,
    ) -> Self:
        """The settings for texts of at most `longest` tokens that begin with `start_length` given ones.

        Raises:
            ConfigError: sampling and beam search together.
        """
        if generation.do_sample and generation.num_beams > 1:
            raise ConfigError("run.generate: this model samples or searches with beams, not both at once")
        return cls(
            max_length=min(start_length + generation.max_new_tokens, longest),
            min_length=start_length + generation.min_length,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            num_beams=generation.num_beams,
            length_penalty=generation.length_penalty,
            repetition_penalty=generation.repetition_penalty,
            do_sample=generation.do_sample,
            top_p=generation.top_p,
            temperature=generation.temperature,
        )


class SearchResult(NamedTuple):
    """Sequences, (B * num_return_sequences, T), start tokens included, padded after the end token."""

    sequences: Tensor
    scores: Tensor | None
    """Beam search: the score of each sequence."""


@torch.no_grad()
def search(step: Step, start: Tensor, cache: ReorderableCache, settings: SearchSettings) -> SearchResult:
    """Continue each row of `start` (B, T), given the `cache` that precedes it."""
    if settings.num_beams > 1:
        return _beam_search(step, start, cache, settings)
    return SearchResult(_single_path(step, start, cache, settings), None)


def _adjust(scores: Tensor, sequences: Tensor, settings: SearchSettings) -> Tensor:
    """Apply the repetition penalty and forbid the end token below the minimal length; (B, V)."""
    if settings.repetition_penalty != 1.0:
        seen = scores.gather(1, sequences)
        penalty = settings.repetition_penalty
        scores = scores.scatter(1, sequences, torch.where(seen < 0, seen * penalty, seen / penalty))
    if settings.eos_token_id is not None and sequences.shape[1] < settings.min_length:
        scores = scores.clone()
        scores[:, settings.eos_token_id] = -math.inf
    return scores


def _draw(scores: Tensor, settings: SearchSettings) -> Tensor:
    """One token per row from the likeliest that together reach probability `top_p`."""
    probabilities, order = (scores / settings.temperature).softmax(-1).sort(dim=-1, descending=True)
    before = probabilities.cumsum(-1) - probabilities
    kept = probabilities.masked_fill(before >= settings.top_p, 0.0)
    return order.gather(1, torch.multinomial(kept, 1)).squeeze(1)


def _single_path(step: Step, start: Tensor, cache: ReorderableCache, settings: SearchSettings) -> Tensor:
    sequences, tokens = start, start
    finished = torch.zeros(start.shape[0], dtype=torch.bool, device=start.device)
    while sequences.shape[1] < settings.max_length and not finished.all():
        logits, cache = step(tokens, cache)
        scores = _adjust(logits.float(), sequences, settings)
        chosen = _draw(scores, settings) if settings.do_sample else scores.argmax(-1)
        chosen = chosen.masked_fill(finished, settings.pad_token_id)
        if settings.eos_token_id is not None:
            finished = finished | (chosen == settings.eos_token_id)
        tokens = chosen[:, None]
        sequences = torch.cat([sequences, tokens], dim=1)
    return sequences


class _Hypotheses:
    """The best finished texts of one input."""

    def __init__(self, settings: SearchSettings) -> None:
        self.settings = settings
        self.texts: list[tuple[float, Tensor]] = []
        self.done = False

    def add(self, text: Tensor, sum_logprob: float) -> None:
        self.texts.append((sum_logprob / len(text) ** self.settings.length_penalty, text))
        self.texts.sort(key=lambda entry: -entry[0])
        del self.texts[self.settings.num_beams :]

    def update_done(self, best_sum_logprob: float, length: int) -> None:
        """Done when no running beam, at its present length, could beat the worst text kept."""
        if len(self.texts) == self.settings.num_beams:
            attainable = best_sum_logprob / length**self.settings.length_penalty
            self.done = self.done or self.texts[-1][0] >= attainable


def _select_beams(
    hypotheses: _Hypotheses, scores: list[float], candidates: list[int], rows: Tensor, vocabulary: int
) -> list[tuple[float, int, int]]:
    """Continue one input: finished candidates are kept aside, the K best others returned.

    `candidates` are positions in the flattened (K, V) scores, best first; `rows` (K, T) the beams so far.
    The result holds (score, token, beam) each.
    """
    settings = hypotheses.settings
    selected: list[tuple[float, int, int]] = []
    for rank, (score, candidate) in enumerate(zip(scores, candidates, strict=True)):
        beam, token = divmod(candidate, vocabulary)
        if token == settings.eos_token_id:
            if rank < settings.num_beams:
                hypotheses.add(rows[beam].clone(), score)
        else:
            selected.append((score, token, beam))
        if len(selected) == settings.num_beams:
            break
    hypotheses.update_done(max(scores), rows.shape[1] + 1)
    return selected


def _beam_search(
    step: Step, start: Tensor, cache: ReorderableCache, settings: SearchSettings
) -> SearchResult:
    batch, beams, device = start.shape[0], settings.num_beams, start.device
    cache = cache.reorder(torch.arange(batch, device=device).repeat_interleave(beams))
    sequences = start.repeat_interleave(beams, dim=0)  # (B * K, T)
    tokens = sequences
    # All beams of an input are equal at first, so only one of them may be continued.
    beam_scores = torch.full((batch, beams), -1e9, device=device)
    beam_scores[:, 0] = 0.0
    hypotheses = [_Hypotheses(settings) for _ in range(batch)]
    while sequences.shape[1] < settings.max_length and not all(h.done for h in hypotheses):
        logits, cache = step(tokens, cache)
        scores = _adjust(logits.float().log_softmax(-1), sequences, settings)
        vocabulary = scores.shape[-1]
        totals = (scores + beam_scores.view(-1, 1)).view(batch, beams * vocabulary)
        best, candidates = totals.topk(2 * beams, dim=1)
        chosen = [
            [(0.0, settings.pad_token_id, 0)] * beams
            if hypotheses[i].done
            else _select_beams(
                hypotheses[i],
                best[i].tolist(),
                candidates[i].tolist(),
                sequences[i * beams : (i + 1) * beams],
                vocabulary,
            )
            for i in range(batch)
        ]
        beam_scores = torch.tensor([[s for s, _, _ in row] for row in chosen], device=device)
        tokens = torch.tensor([[t] for row in chosen for _, t, _ in row], device=device)
        picked = [i * beams + beam for i, row in enumerate(chosen) for _, _, beam in row]
        rows = torch.tensor(picked, device=device)
        sequences = torch.cat([sequences[rows], tokens], dim=1)
        cache = cache.reorder(rows)
    for i, found in enumerate(hypotheses):
        if not found.done:
            for beam in range(beams):
                found.add(sequences[i * beams + beam], float(beam_scores[i, beam]))
    return _collect(
        [entry for h in hypotheses for entry in h.texts[: settings.num_return_sequences]], settings
    )


def _collect(texts: list[tuple[float, Tensor]], settings: SearchSettings) -> SearchResult:
    """Pad the texts to one length, each shorter one ended by the end token."""
    longest = max(len(text) for _, text in texts)
    width = min(longest + 1, settings.max_length)
    sequences = texts[0][1].new_full((len(texts), width), settings.pad_token_id)
    for row, (_, text) in zip(sequences, texts, strict=True):
        row[: len(text)] = text
        if len(text) < width and settings.eos_token_id is not None:
            row[len(text)] = settings.eos_token_id
    return SearchResult(sequences, torch.tensor([score for score, _ in texts], device=sequences.device))


def decode_reports(tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> list[str]:
    """The texts of new tokens (B, n), without end token and padding."""
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


def bert_reports(
    tokenizer: PreTrainedTokenizerBase, ids: Tensor, logits_of: Callable[[slice], Tensor]
) -> list[GeneratedReport]:
    """The reports of new tokens (B, n); `logits_of` as in `mean_log_probabilities`."""
    ends = [ending(row, [tokenizer.sep_token_id], tokenizer.pad_token_id) for row in ids.tolist()]
    means = mean_log_probabilities(logits_of, ids, [length for length, _ in ends])
    return [
        GeneratedReport(text, length, reason, mean)
        for text, (length, reason), mean in zip(decode_reports(tokenizer, ids), ends, means, strict=True)
    ]
