"""Words from BERT: the prediction head, models that predict masked or next words, and the search for a text.

The search is small and explicit, because it starts from a cache (query tokens, image), which transformers'
`generate` does not take. Its numbers are those of transformers 4.28, which BLIP-2 was published with:
a beam's score is its summed log-probability divided by length ** length_penalty, the given start tokens
counted and the end token not.

Shapes: B sequences, L text tokens, D hidden size, V vocabulary, K beams, T tokens so far.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions, MaskedLMOutput
from transformers.models.bert.modeling_bert import BertOnlyMLMHead

from xraygpt.common.errors import ConfigError
from xraygpt.common.generation import GenerationConfig
from xraygpt.models.bert import (
    BertBackbone,
    BertConfig,
    BertPreTrainedModel,
    KeyValueCache,
    PastKeyValues,
    passing_on,
)
from xraygpt.models.generation import GeneratedReport, ending, mean_log_probabilities

LABEL_SMOOTHING = 0.1
"""Label smoothing of the language-modelling losses of BLIP and BLIP-2."""

IGNORED_LABEL = -100
"""Label of positions that do not count in a loss."""


def lm_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "none"] = "mean",
    soft_labels: Tensor | None = None,
    alpha: float = 0.0,
) -> Tensor:
    """Cross-entropy of `logits` (B, L, V) at `labels` (B, L); labels of -100 do not count.

    A teacher's probabilities `soft_labels` (B, L, V) make up the part `alpha` of it (ALBEF's distillation).
    "mean" is over the labels that count (0 if there is none), "none" gives the sum per sequence, (B,).
    """
    flat = logits.float().flatten(0, 1)
    losses = F.cross_entropy(
        flat, labels.flatten(), ignore_index=IGNORED_LABEL, reduction="none", label_smoothing=label_smoothing
    ).view(labels.shape)
    counted = labels != IGNORED_LABEL
    if soft_labels is not None:
        soft = F.cross_entropy(flat, soft_labels.flatten(0, 1), reduction="none").view(labels.shape)
        losses = torch.lerp(losses, soft * counted, alpha)
    return losses.sum(dim=1) if reduction == "none" else losses.sum() / counted.sum().clamp(min=1)


class ReorderableCache(Protocol):
    """What a search needs of a cache: its batch rows picked and rearranged."""

    def reorder(self, rows: Tensor) -> Self: ...


Step = Callable[[Tensor, ReorderableCache], tuple[Tensor, ReorderableCache]]
"""New tokens (B, t) and the cache before them -> logits of the token after the last, (B, V), new cache."""


@dataclass
class SearchSettings(GenerationConfig):
    """The settings of a generation, and what else a search has to know.

    Raises:
        ConfigError: sampling and beam search together.
    """

    eos_token_id: int | None = None
    """The token that ends a text."""
    pad_token_id: int = 0
    """The token that fills up shorter texts."""
    max_length: int | None = None
    """Most tokens of a text, start tokens included; none: as `max_new_tokens` allows."""
    num_return_sequences: int = 1
    """Beam search: how many of the best texts are returned."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.do_sample and self.num_beams > 1:
            raise ConfigError("run.generate: this model samples or searches with beams, not both at once")
        if self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences {self.num_return_sequences} exceeds num_beams {self.num_beams}"
            )

    def longest(self, start_length: int) -> int:
        """Most tokens of a text that begins with `start_length` given ones."""
        length = start_length + self.max_new_tokens
        return length if self.max_length is None else min(length, self.max_length)


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


def _adjust(scores: Tensor, sequences: Tensor, start: Tensor, settings: SearchSettings) -> Tensor:
    """Apply the repetition penalty and forbid the end token below the minimal length; (B, V)."""
    if settings.repetition_penalty != 1.0:
        seen = scores.gather(1, sequences)
        penalty = settings.repetition_penalty
        scores = scores.scatter(1, sequences, torch.where(seen < 0, seen * penalty, seen / penalty))
    written = sequences.shape[1] - start.shape[1]
    if settings.eos_token_id is not None and written < settings.min_length:
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
    while sequences.shape[1] < settings.longest(start.shape[1]) and not finished.all():
        logits, cache = step(tokens, cache)
        scores = _adjust(logits.float(), sequences, start, settings)
        chosen = _draw(scores, settings) if settings.do_sample else scores.argmax(-1)
        chosen = chosen.masked_fill(finished, settings.pad_token_id)
        if settings.eos_token_id is not None:
            finished = finished | (chosen == settings.eos_token_id)
        tokens = chosen[:, None]
        sequences = torch.cat([sequences, tokens], dim=1)
    return sequences


class _Finished:
    """The K best finished texts of each input, best first."""

    def __init__(self, start: Tensor, settings: SearchSettings) -> None:
        self.settings = settings
        shape = len(start), settings.num_beams
        self.longest = settings.longest(start.shape[1])
        self.texts = start.new_full((*shape, self.longest), settings.pad_token_id)
        self.lengths = start.new_zeros(shape)
        self.scores = torch.full(shape, -math.inf, device=start.device)

    def score(self, totals: Tensor, length: int) -> Tensor:
        """Scores of texts of `length` tokens with summed log-probabilities `totals`."""
        return totals / length**self.settings.length_penalty

    def add(self, texts: Tensor, totals: Tensor, where: Tensor) -> None:
        """Keep the best of what is here and of `texts` (B, K, T), as far as they are to be added."""
        length = texts.shape[2]
        rows = F.pad(texts, (0, self.longest - length), value=self.settings.pad_token_id)
        if length < self.longest and self.settings.eos_token_id is not None:
            rows[..., length] = self.settings.eos_token_id
        scores = self.score(totals, length).masked_fill(~where, -math.inf)
        scores, order = torch.cat([self.scores, scores], 1).sort(dim=1, descending=True, stable=True)
        order = order[:, : self.settings.num_beams]
        self.scores = scores[:, : self.settings.num_beams]
        self.texts = torch.cat([self.texts, rows], 1).take_along_dim(order[..., None], 1)
        self.lengths = torch.cat([self.lengths, torch.full_like(self.lengths, length)], 1).gather(1, order)

    def best(self) -> SearchResult:
        """The texts to be returned, without columns that are padding in all of them."""
        number = self.settings.num_return_sequences
        width = min(int(self.lengths[:, :number].max()) + 1, self.longest)
        return SearchResult(self.texts[:, :number, :width].flatten(0, 1), self.scores[:, :number].flatten())


def _beam_search(
    step: Step, start: Tensor, cache: ReorderableCache, settings: SearchSettings
) -> SearchResult:
    batch, beams, device = len(start), settings.num_beams, start.device
    first = torch.arange(batch, device=device)[:, None] * beams  # row of each input's first beam
    cache = cache.reorder(torch.arange(batch, device=device).repeat_interleave(beams))
    texts = start[:, None].expand(-1, beams, -1)  # (B, K, T)
    tokens = texts.flatten(0, 1)
    # All beams of an input are equal at first, so only one of them may be continued.
    totals = torch.full((batch, beams), -1e9, device=device)
    totals[:, 0] = 0.0
    finished = _Finished(start, settings)
    done = torch.zeros(batch, dtype=torch.bool, device=device)
    while texts.shape[2] < finished.longest and not done.all():
        logits, cache = step(tokens, cache)
        scores = _adjust(logits.float().log_softmax(-1), texts.flatten(0, 1), start, settings)
        vocabulary = scores.shape[1]
        scores = scores.view(batch, beams, vocabulary) + totals[..., None]
        best, candidates = scores.flatten(1).topk(2 * beams, dim=1)  # (B, 2K), best first
        beam, token = candidates // vocabulary, candidates % vocabulary
        ended = token == (-1 if settings.eos_token_id is None else settings.eos_token_id)
        # Of the K best candidates those that end are set aside; the K best others go on.
        stopped = texts.take_along_dim(beam[:, :beams, None], 1)
        finished.add(stopped, best[:, :beams], ended[:, :beams] & ~done[:, None])
        running = ended.int().sort(dim=1, stable=True).indices[:, :beams]
        totals, beam, token = (part.gather(1, running) for part in (best, beam, token))
        texts = torch.cat([texts.take_along_dim(beam[..., None], 1), token[..., None]], dim=2)
        # Done when no running beam, at its present length, could beat the worst text kept.
        done |= finished.scores[:, -1] >= finished.score(best[:, 0], texts.shape[2])
        tokens, cache = token.view(-1, 1), cache.reorder((first + beam).flatten())
    finished.add(texts, totals, ~done[:, None].expand(-1, beams))
    return finished.best()


class PredictionModel(BertPreTrainedModel):
    """A backbone `bert` and the prediction head `cls`, its output embedding tied to the word embedding.

    It predicts masked words from both sides.
    """

    ahead = 0
    """How many positions ahead of itself each position predicts."""

    def __init__(self, config: BertConfig, bert: BertBackbone) -> None:
        super().__init__(config)
        self.bert = bert
        self.cls = BertOnlyMLMHead(config)
        self.cls.predictions.decoder.bias = self.cls.predictions.bias  # two names, one parameter
        self.cls.apply(self._init_weights)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Make output and word embedding one parameter (again, after replacing either)."""
        words = self.bert.get_input_embeddings()
        assert words is not None
        self.cls.predictions.decoder.weight = words.weight

    def get_output_embeddings(self) -> nn.Linear:
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.cls.predictions.decoder = new_embeddings

    @passing_on(BertBackbone.forward)
    def forward(
        self,
        *inputs: Any,
        query_embeds: Tensor | None = None,
        past_key_values: PastKeyValues = None,
        use_cache: bool | None = None,
        is_decoder: bool | None = None,
        labels: Tensor | None = None,
        soft_labels: Tensor | None = None,
        alpha: float = 0.0,
        reduction: Literal["mean", "none"] = "mean",
        return_logits: bool = False,
        return_dict: bool | None = None,
        **named: Any,
    ) -> MaskedLMOutput | CausalLMOutputWithCrossAttentions | Tensor | tuple[Any, ...]:
        """The `logits` (B, L, V) of the text, what the backbone returns and, with `labels` (B, L), the loss.

        Arguments not named below are those of `BertModel.forward`. A cache stands for the query tokens, which
        are then not used.

        Args:
            use_cache, is_decoder: by default true for a causal model; with labels there is no cache.
            labels, soft_labels, alpha, reduction: as in `lm_loss`; a causal model predicts the next token
                (`soft_labels` are (B, L - 1, V)), with label smoothing 0.1.
            return_logits: return just the logits, of all positions that predict a token of the text.
        """
        causal = self.ahead > 0
        if query_embeds is not None and past_key_values is None:
            named["query_embeds"] = query_embeds
        output = self.bert(
            *inputs,
            past_key_values=past_key_values,
            use_cache=(causal if use_cache is None else use_cache) and labels is None,
            is_decoder=causal if is_decoder is None else is_decoder,
            **named,
        )
        queries = named["query_embeds"].shape[1] if "query_embeds" in named else 0
        logits = self.cls(output.last_hidden_state[:, queries:])
        predicting = logits[:, : logits.shape[1] - self.ahead]
        if return_logits:
            return predicting
        loss = None
        if labels is not None:
            loss = lm_loss(
                predicting,
                labels[:, self.ahead :],
                label_smoothing=LABEL_SMOOTHING if causal else 0.0,
                reduction=reduction,
                soft_labels=soft_labels,
                alpha=alpha,
            )
        kind = CausalLMOutputWithCrossAttentions if causal else MaskedLMOutput
        kept = {name: value for name, value in output.items() if name in kind.__dataclass_fields__}
        result = kind(loss=loss, logits=logits, **kept)
        return result.to_tuple() if return_dict is False else result


class CausalLM(PredictionModel):
    """Predicts and writes text from left to right."""

    ahead = 1

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past: PastKeyValues = None,
        attention_mask: Tensor | None = None,
        **model_kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of the next `forward` while generating: with a cache, the last token only."""
        return {
            "input_ids": input_ids if past is None else input_ids[:, -1:],
            "attention_mask": torch.ones_like(input_ids) if attention_mask is None else attention_mask,
            "past_key_values": past,
            "encoder_hidden_states": model_kwargs.get("encoder_hidden_states"),
            "encoder_attention_mask": model_kwargs.get("encoder_attention_mask"),
            "is_decoder": True,
        }

    @torch.no_grad()
    def write(
        self,
        start: Tensor,
        cache: KeyValueCache,
        settings: SearchSettings,
        image_mask: Tensor | None = None,
    ) -> SearchResult:
        """Continue the tokens `start` (B, T), given what the cache holds; `image_mask` is 0/1, (B, N)."""

        def step(tokens: Tensor, cache: Any) -> tuple[Tensor, KeyValueCache]:
            mask = image_mask
            if mask is not None:  # the beams of an image stand side by side
                mask = mask.repeat_interleave(len(tokens) // len(mask), dim=0)
            output = self(tokens, encoder_attention_mask=mask, past_key_values=cache)
            return output.logits[:, -1], output.past_key_values

        return search(step, start, cache, settings)

    def _reorder_cache(self, past: PastKeyValues, beam_idx: Tensor) -> KeyValueCache:
        return self.bert.cache(past).reorder(beam_idx)


def bert_reports(
    tokenizer: PreTrainedTokenizerBase, ids: Tensor, logits_of: Callable[[slice], Tensor]
) -> list[GeneratedReport]:
    """The reports of new tokens (B, n); `logits_of` as in `mean_log_probabilities`."""
    ends = [ending(row, [tokenizer.sep_token_id], tokenizer.pad_token_id) for row in ids.tolist()]
    means = mean_log_probabilities(logits_of, ids, [length for length, _ in ends])
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [
        GeneratedReport(text, length, reason, mean)
        for text, (length, reason), mean in zip(texts, ends, means, strict=True)
    ]
