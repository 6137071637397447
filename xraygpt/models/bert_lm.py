"""Words from BERT: the prediction head, models that predict masked or next words, and the search for a text.

The search is explicit, because it starts from a cache (query tokens, image), which transformers' `generate`
does not take. Its numbers are those of transformers 4.28, with which BLIP-2 was published: a beam's score is
its summed log-probability / length ** length_penalty, start tokens counted and the end token not.

Shapes: B sequences, L text tokens, D hidden size, V vocabulary, K beams, T tokens so far.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions, MaskedLMOutput
from transformers.models.bert.modeling_bert import BertOnlyMLMHead

from xraygpt.common.errors import ConfigError
from xraygpt.common.generation import GenerationConfig
from xraygpt.models.bert import BertBackbone, BertConfig, BertPreTrainedModel, KeyValueCache, OneOrMore, Past
from xraygpt.models.generation import GeneratedReport, ending, mean_log_probabilities

IGNORED_LABEL = -100
"""Label of positions that do not count in a loss."""

Step = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""New tokens (B, t) and the cache before them -> logits of the token after the last, (B, V), new cache. Its
method `reorder` picks and rearranges batch rows, see `KeyValueCache`."""


@dataclass
class SearchSettings(GenerationConfig):
    """The settings of a generation, and what else a search has to know."""

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
        returned, beams = self.num_return_sequences, self.num_beams
        if returned > beams:
            raise ValueError(f"num_return_sequences {returned} exceeds num_beams {beams}")

    def longest(self, start_length: int) -> int:
        """Most tokens of a text that begins with `start_length` given ones."""
        length = start_length + self.max_new_tokens
        return length if self.max_length is None else min(length, self.max_length)


class SearchResult(NamedTuple):
    """Sequences, (B * num_return_sequences, T), start tokens included, padded after the end token; of beam
    search the score of each."""

    sequences: Tensor
    scores: Tensor | None


@torch.no_grad()
def search(step: Step, start: Tensor, cache: Any, settings: SearchSettings) -> SearchResult:
    """Continue each row of `start` (B, T), given the `cache` that precedes it."""
    if settings.num_beams > 1:
        return _beam_search(step, start, cache, settings)
    sequences, tokens = start, start
    finished = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    while sequences.shape[1] < settings.longest(start.shape[1]) and not finished.all():
        logits, cache = step(tokens, cache)
        scores = _adjust(logits.float(), sequences, start, settings)
        chosen = _draw(scores, settings) if settings.do_sample else scores.argmax(-1)
        chosen = chosen.masked_fill(finished, settings.pad_token_id)
        if settings.eos_token_id is not None:
            finished = finished | (chosen == settings.eos_token_id)
        tokens = chosen[:, None]
        sequences = torch.cat([sequences, tokens], dim=1)
    return SearchResult(sequences, None)


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


def _beam_search(step: Step, start: Tensor, cache: Any, settings: SearchSettings) -> SearchResult:
    batch, beams, longest = len(start), settings.num_beams, settings.longest(start.shape[1])
    first = torch.arange(batch, device=start.device)[:, None] * beams  # row of each input's first beam
    cache = cache.reorder(torch.arange(batch, device=start.device).repeat_interleave(beams))
    # Texts, running and finished, are (B, K, longest); -1 stands behind their last token.
    texts = F.pad(start, (0, longest - start.shape[1]), value=-1)[:, None].repeat(1, beams, 1)
    tokens = start.repeat_interleave(beams, dim=0)
    # All beams of an input are equal at first, so only one of them may be continued.
    totals = torch.full((batch, beams), -1e9, device=start.device)
    totals[:, 0] = 0.0
    kept, kept_scores = texts, torch.full_like(totals, -math.inf)  # the K best finished texts, best first
    done = torch.zeros(batch, dtype=torch.bool, device=start.device)

    def keep(texts: Tensor, totals: Tensor, length: int, ended: Tensor) -> tuple[Tensor, Tensor]:
        """The K best of the texts kept and of those of `texts`, of `length` tokens, that `ended`."""
        scores = (totals / length**settings.length_penalty).masked_fill(~ended | done[:, None], -math.inf)
        scores, order = torch.cat([kept_scores, scores], 1).sort(dim=1, descending=True, stable=True)
        best = torch.cat([kept, texts], 1).take_along_dim(order[:, :beams, None], 1)
        return best, scores[:, :beams]

    for length in range(start.shape[1], longest):
        if done.all():
            break
        logits, cache = step(tokens, cache)
        scores = _adjust(logits.float().log_softmax(-1), texts[..., :length].flatten(0, 1), start, settings)
        scores = (scores.view(batch, beams, -1) + totals[..., None]).flatten(1)
        best, candidates = scores.topk(2 * beams, dim=1)  # (B, 2K), best first
        beam, token = candidates // logits.shape[1], candidates % logits.shape[1]
        longer = texts.take_along_dim(beam[..., None], 1)
        longer[..., length] = token
        # Of the K best candidates those that end are set aside; the K best others go on.
        ended = token == (-1 if settings.eos_token_id is None else settings.eos_token_id)
        kept, kept_scores = keep(longer[:, :beams], best[:, :beams], length, ended[:, :beams])
        running = ended.int().sort(dim=1, stable=True).indices[:, :beams]
        texts, totals = longer.take_along_dim(running[..., None], 1), best.gather(1, running)
        # Done when no running beam, at its present length, could beat the worst text kept.
        done |= kept_scores[:, -1] >= best[:, 0] / (length + 1) ** settings.length_penalty
        tokens = token.gather(1, running).view(-1, 1)
        cache = cache.reorder((first + beam.gather(1, running)).flatten())
    kept, kept_scores = keep(texts, totals, longest, torch.ones_like(totals, dtype=torch.bool))
    returned = settings.num_return_sequences
    sequences, scores = kept[:, :returned].flatten(0, 1), kept_scores[:, :returned].flatten()
    sequences = sequences[:, (sequences >= 0).any(dim=0)]
    return SearchResult(sequences.masked_fill(sequences < 0, settings.pad_token_id), scores)


class PredictionModel(BertPreTrainedModel):
    """Predicts masked words from both sides: a backbone `bert` and, tied to its words, the head `cls`."""

    backbone: ClassVar[Any]
    """The class of `bert`."""
    ahead = 0
    """How many positions ahead of itself each position predicts."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert: BertBackbone = self.backbone(config, add_pooling_layer=False)
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

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        query_embeds: Tensor | None = None,
        encoder_hidden_states: OneOrMore = None,
        encoder_attention_mask: OneOrMore = None,
        labels: Tensor | None = None,
        past_key_values: Past = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        return_logits: bool = False,
        is_decoder: bool | None = None,
        reduction: Literal["mean", "none"] = "mean",
        soft_labels: Tensor | None = None,
        alpha: float = 0.0,
        **named: Any,
    ) -> MaskedLMOutput | CausalLMOutputWithCrossAttentions | Tensor | tuple[Any, ...]:
        """The `logits` (B, L, V) of the text, what the backbone returns and, with `labels` (B, L), the loss.

        Other arguments, those in `named` too, are those of `BertBackbone.forward`; with a cache, which stands
        for them, the query tokens are not used.

        Args:
            use_cache, is_decoder: by default true for a causal model; with labels there is no cache.
            labels: the tokens to be predicted, (B, L), -100 where none counts; a causal model predicts the
                next one, with label smoothing 0.1.
            soft_labels: a teacher's probabilities, (B, L, V), of a causal model (B, L - 1, V); they make up
                the part `alpha` of the loss (ALBEF's distillation).
            reduction: "mean" over the labels that count (0 without any), "none": sum per sequence, (B,).
            return_logits: return just the logits, of all positions that predict a token of the text.
        """
        causal = self.ahead > 0
        if past_key_values is not None:
            query_embeds = None
        text = input_ids, attention_mask, position_ids, head_mask
        image = encoder_hidden_states, encoder_attention_mask
        use_cache = (causal if use_cache is None else use_cache) and labels is None
        wanted = use_cache, output_attentions, output_hidden_states
        named["is_decoder"] = causal if is_decoder is None else is_decoder
        output = self.bert(*text, query_embeds, *image, past_key_values, *wanted, **named)
        queries = 0 if query_embeds is None else query_embeds.shape[1]
        logits = self.cls(output.last_hidden_state[:, queries:])
        predicting = logits[:, : logits.shape[1] - self.ahead]
        if return_logits:
            return predicting
        loss = None
        if labels is not None:
            loss = self._loss(predicting, labels[:, self.ahead :], soft_labels, alpha, reduction)
        kind = CausalLMOutputWithCrossAttentions if causal else MaskedLMOutput
        kept = {name: value for name, value in output.items() if name in kind.__dataclass_fields__}
        result = kind(loss=loss, logits=logits, **kept)
        return result.to_tuple() if return_dict is False else result

    def _loss(
        self, logits: Tensor, labels: Tensor, soft_labels: Tensor | None, alpha: float, reduction: str
    ) -> Tensor:
        flat, counted = logits.float().flatten(0, 1), labels != IGNORED_LABEL
        smoothing = 0.1 if self.ahead > 0 else 0.0  # as in BLIP and BLIP-2
        losses = F.cross_entropy(flat, labels.flatten(), reduction="none", label_smoothing=smoothing)
        if soft_labels is not None:
            soft = F.cross_entropy(flat, soft_labels.flatten(0, 1), reduction="none")
            losses = torch.lerp(losses, soft * counted.flatten(), alpha)
        if reduction == "none":
            return losses.view(labels.shape).sum(dim=1)
        return losses.sum() / counted.sum().clamp(min=1)


class CausalLM(PredictionModel):
    """Predicts and writes text from left to right."""

    ahead = 1
    image_cache: Callable[..., KeyValueCache]
    """What the layers keep of an image, given as in `generate`."""

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        query_embeds: Tensor | None = None,
        past: Past = None,
        attention_mask: Tensor | None = None,
        **model_kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of the next `forward` while generating: with a cache, the last token only.

        `attention_mask` covers the text; ones for the query tokens are put before it.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if query_embeds is not None:
            attention_mask = torch.cat([attention_mask.new_ones(query_embeds.shape[:-1]), attention_mask], 1)
        return {
            "input_ids": input_ids if past is None else input_ids[:, -1:],
            "query_embeds": query_embeds,
            "attention_mask": attention_mask,
            "past_key_values": past,
            "encoder_hidden_states": model_kwargs.get("encoder_hidden_states"),
            "encoder_attention_mask": model_kwargs.get("encoder_attention_mask"),
            "is_decoder": True,
        }

    def _reorder_cache(self, past: Past, beam_idx: Tensor) -> KeyValueCache:
        return self.bert.cache(past).reorder(beam_idx)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, settings: SearchSettings, **image: Tensor | None) -> SearchResult:
        """Write a text about each image, after the start tokens `input_ids` (B, T).

        `image` is `encoder_hidden_states` (B, N, encoder_width), `encoder_attention_mask` and, of the
        Q-Former, `query_embeds`. It is read once; the cache stands for it from then on.
        """
        mask = image.get("encoder_attention_mask")
        if mask is not None:  # the beams of an image stand side by side
            mask = mask.repeat_interleave(settings.num_beams, dim=0)

        def step(tokens: Tensor, cache: Any) -> tuple[Tensor, KeyValueCache]:
            output = self(tokens, encoder_attention_mask=mask, past_key_values=cache)
            return output.logits[:, -1], output.past_key_values

        return search(step, input_ids, self.image_cache(**image), settings)


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
