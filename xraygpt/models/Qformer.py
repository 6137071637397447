"""The Q-Former of BLIP-2 (Li et al., 2023): a BERT whose learnt query tokens look at the image.

Queries and text share self-attention; every `cross_attention_freq`-th layer lets the queries, and only
them, attend to the image; queries and text have separate feed-forward parts. With `text=False` the text
half (word and position embeddings, text feed-forward parts) is not built.

Shapes: B samples, Q query tokens, L text tokens, T = Q + L positions, N image tokens, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    MaskedLMOutput,
)

from xraygpt.models.bert import (
    BertAttention,
    BertBackbone,
    BertConfig,
    BertIntermediate,
    BertLMPredictionHead,
    BertOnlyMLMHead,
    BertOutput,
    BertPooler,
    BertPredictionHeadTransform,
    BertPreTrainedModel,
    BertSelfAttention,
    BertSelfOutput,
    EncoderResult,
    KeyValue,
    KeyValueCache,
    LayerResult,
    LayerStack,
    PredictionModel,
    TextEmbeddings,
    additive_mask,
    causal_lm_loss,
    causal_lm_output,
    lm_loss,
    masked_lm_output,
    per_layer_head_mask,
)
from xraygpt.models.bert_generation import SearchResult, SearchSettings, search

__all__ = [
    "BertAttention",
    "BertEmbeddings",
    "BertEncoder",
    "BertForMaskedLM",
    "BertIntermediate",
    "BertLMHeadModel",
    "BertLMPredictionHead",
    "BertLayer",
    "BertModel",
    "BertOnlyMLMHead",
    "BertOutput",
    "BertPooler",
    "BertPreTrainedModel",
    "BertPredictionHeadTransform",
    "BertSelfAttention",
    "BertSelfOutput",
    "KeyValueCache",
    "QformerConfig",
    "QueryModel",
]


@dataclass
class QformerConfig(BertConfig):
    """Sizes of the Q-Former; the defaults are BLIP-2's (BERT-base, 32 queries, image every 2nd layer)."""

    cross_attention_freq: int = 2
    """Every how many layers the queries attend to the image, starting with the first."""
    query_length: int = 32
    """Number of query tokens."""


class BertEmbeddings(TextEmbeddings):
    """Query embeddings, followed by word plus position embeddings of the text; layer norm, dropout."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        query_embeds: Tensor | None = None,
        past_key_values_length: int = 0,
    ) -> Tensor:
        """`input_ids` (B, L) and/or `query_embeds` (B, Q, D) -> (B, Q + L, D)."""
        parts = [] if query_embeds is None else [query_embeds]
        if input_ids is not None:
            words = self.embed_words(input_ids)
            parts.append(self.add_positions(words, position_ids, past_key_values_length))
        if not parts:
            raise ValueError("the Q-Former needs input_ids, query_embeds or both")
        embeddings = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        return self.dropout(self.LayerNorm(embeddings))


class BertLayer(nn.Module):
    """Self-attention for all, cross-attention for the queries, a feed-forward part for each of the two."""

    def __init__(self, config: QformerConfig, layer_num: int, text: bool = True) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.has_cross_attention = config.add_cross_attention and layer_num % config.cross_attention_freq == 0
        if self.has_cross_attention:
            self.crossattention = BertAttention(config, is_cross_attention=True)
        if text:
            self.intermediate = BertIntermediate(config)
            self.output = BertOutput(config)
        self.intermediate_query = BertIntermediate(config)
        self.output_query = BertOutput(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_value: KeyValue | None = None,
        output_attentions: bool = False,
        query_length: int = 0,
    ) -> LayerResult:
        """`hidden_states` (B, T, D), the first `query_length` positions being queries."""
        attended = self.attention(
            hidden_states,
            attention_mask,
            head_mask,
            past_key_value=past_key_value,
            output_attentions=output_attentions,
        )
        queries, text = attended.context[:, :query_length], attended.context[:, query_length:]
        cross_map = None
        outputs = []
        if query_length > 0:
            if self.has_cross_attention:
                if encoder_hidden_states is None:
                    raise ValueError("query tokens need encoder_hidden_states (the image) to attend to")
                crossed = self.crossattention(
                    queries,
                    head_mask=head_mask,
                    encoder_hidden_states=encoder_hidden_states,
                    encoder_attention_mask=encoder_attention_mask,
                    output_attentions=output_attentions,
                )
                queries, cross_map = crossed.context, crossed.probabilities
            outputs.append(self.feed_forward_chunk_query(queries))
        if text.shape[1] > 0:
            outputs.append(self.feed_forward_chunk(text))
        output = torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]
        return LayerResult(output, attended.probabilities, cross_map, attended.key_value, None)

    def feed_forward_chunk(self, attention_output: Tensor) -> Tensor:
        """The text's feed-forward part."""
        return self.output(self.intermediate(attention_output), attention_output)

    def feed_forward_chunk_query(self, attention_output: Tensor) -> Tensor:
        """The queries' feed-forward part."""
        return self.output_query(self.intermediate_query(attention_output), attention_output)


class BertEncoder(LayerStack):
    """The stack of layers."""

    def __init__(self, config: QformerConfig, text: bool = True) -> None:
        layers = (BertLayer(config, i, text) for i in range(config.num_hidden_layers))
        super().__init__(layers, config.gradient_checkpointing)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Sequence[Tensor | None] | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: tuple[KeyValue, ...] | None = None,
        output_attentions: bool = False,
        query_length: int = 0,
    ) -> EncoderResult:
        arguments = [
            (
                attention_mask,
                None if head_mask is None else head_mask[i],
                encoder_hidden_states,
                encoder_attention_mask,
                None if past_key_values is None else past_key_values[i],
                output_attentions,
                query_length,
            )
            for i in range(len(self.layer))
        ]
        return self.run(hidden_states, arguments)


class BertModel(BertBackbone):
    """Embeddings, layers and optionally a pooler."""

    config: QformerConfig

    def __init__(self, config: QformerConfig, add_pooling_layer: bool = False, text: bool = True) -> None:
        super().__init__(config, BertEmbeddings(config, text), BertEncoder(config, text), add_pooling_layer)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        query_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: tuple[KeyValue, ...] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        is_decoder: bool = False,
    ) -> BaseModelOutputWithPoolingAndCrossAttentions | tuple[Any, ...]:
        """Run the Q-Former on queries, text or both.

        Args:
            input_ids: text, (B, L) int64.
            attention_mask: 0/1 over cached + given positions, (B, S), or per position, (B, T, S).
            position_ids: (B, L) or (1, L), instead of counting from the cached text on.
            head_mask: (H,) or (layers, H); multiplies self- and cross-attention probabilities.
            query_embeds: query tokens, (B, Q, D); they stand before the text.
            encoder_hidden_states: image tokens, (B, N, encoder_width); needed with `query_embeds`.
            encoder_attention_mask: 0/1, (B, N).
            past_key_values: the cache of an earlier call; its positions precede the given ones.
            use_cache: return the cache.
            is_decoder: text sees the queries and earlier text only, queries see queries only.

        `cross_attentions` of the result holds None for layers without cross-attention.
        """
        query_length = 0 if query_embeds is None else query_embeds.shape[1]
        text_length = 0 if input_ids is None else input_ids.shape[1]
        past_length, past_queries = 0, 0
        if past_key_values is not None:
            past_length = past_key_values[0][0].shape[2]
            past_queries = getattr(past_key_values, "query_length", self.config.query_length)
        embedded = self.embeddings(input_ids, position_ids, query_embeds, past_length - past_queries)
        encoder_mask = None if encoder_attention_mask is None else additive_mask(encoder_attention_mask)
        result = self.encoder(
            embedded,
            self.self_attention_mask(attention_mask, embedded, text_length, past_length, is_decoder),
            per_layer_head_mask(head_mask, self.config.num_hidden_layers),
            encoder_hidden_states,
            encoder_mask,
            past_key_values,
            bool(output_attentions),
            query_length,
        )
        cache = KeyValueCache(result.key_values, past_queries + query_length) if use_cache else None
        output = self.output(result, cache, bool(output_attentions), bool(output_hidden_states))
        return output.to_tuple() if return_dict is False else output


class QueryModel(BertPreTrainedModel):
    """The query half alone, under the same key prefix `bert` as in the models with a prediction head."""

    def __init__(self, config: QformerConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, text=False)


class BertLMHeadModel(PredictionModel):
    """The Q-Former as a left-to-right language model of the text, given the queries."""

    config: QformerConfig

    def __init__(self, config: QformerConfig) -> None:
        super().__init__(config, BertModel(config))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        query_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: tuple[KeyValue, ...] | None = None,
        use_cache: bool = True,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_logits: bool = False,
        is_decoder: bool = True,
        reduction: Literal["mean", "none"] = "mean",
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithCrossAttentions | Tensor | tuple[Any, ...]:
        """Arguments as in `BertModel.forward`; `logits` are those of the text, (B, L, vocabulary).

        With `labels` (B, L; -100 does not count) also the loss of predicting each next token, label
        smoothing 0.1; `reduction` "none" gives the sum per sequence. `return_logits` returns just the
        logits of all but the last position. A cache given stands for the queries, which are then not used.
        """
        if past_key_values is not None:
            query_embeds = None
        output = self.bert(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            head_mask=head_mask,
            query_embeds=query_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache and labels is None,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            is_decoder=is_decoder,
        )
        skipped = 0 if query_embeds is None else query_embeds.shape[1]
        logits = self.cls(output.last_hidden_state[:, skipped:])
        if return_logits:
            return logits[:, :-1]
        loss = None if labels is None else causal_lm_loss(logits, labels, reduction=reduction)
        result = causal_lm_output(output, logits, loss)
        return result.to_tuple() if return_dict is False else result

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        query_embeds: Tensor | None,
        past: tuple[KeyValue, ...] | None = None,
        attention_mask: Tensor | None = None,
        **model_kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of the next `forward` while generating: with a cache, the last token only.

        `attention_mask` covers the text; ones for the queries are put before it.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if query_embeds is not None:
            ones = attention_mask.new_ones(query_embeds.shape[:-1])
            attention_mask = torch.cat([ones, attention_mask], dim=1)
        return {
            "input_ids": input_ids if past is None else input_ids[:, -1:],
            "query_embeds": query_embeds,
            "attention_mask": attention_mask,
            "past_key_values": past,
            "encoder_hidden_states": model_kwargs.get("encoder_hidden_states"),
            "encoder_attention_mask": model_kwargs.get("encoder_attention_mask"),
            "is_decoder": True,
        }

    def _reorder_cache(self, past: tuple[KeyValue, ...], beam_idx: Tensor) -> KeyValueCache:
        if not isinstance(past, KeyValueCache):
            past = KeyValueCache(past, self.config.query_length)
        return past.reorder(beam_idx)

    def generate(
        self,
        input_ids: Tensor,
        settings: SearchSettings,
        *,
        query_embeds: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
    ) -> SearchResult:
        """Write a text for each image, after the start tokens `input_ids` (B, L).

        The queries are run once; their cache stands for them from then on.
        """
        queries = self.bert(
            query_embeds=query_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            use_cache=True,
        )

        def step(tokens: Tensor, cache: Any) -> tuple[Tensor, KeyValueCache]:
            output = self(tokens, past_key_values=cache)
            return output.logits[:, -1], output.past_key_values

        return search(step, input_ids, queries.past_key_values, settings)


class BertForMaskedLM(PredictionModel):
    """The Q-Former predicting masked words from both sides, with or without queries."""

    def __init__(self, config: QformerConfig) -> None:
        super().__init__(config, BertModel(config))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        query_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        return_logits: bool = False,
        is_decoder: bool = False,
    ) -> MaskedLMOutput | Tensor | tuple[Any, ...]:
        """As `BertLMHeadModel.forward`, but `labels` (B, L) are of the same positions, unsmoothed."""
        output = self.bert(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            head_mask=head_mask,
            query_embeds=query_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            is_decoder=is_decoder,
        )
        skipped = 0 if query_embeds is None else query_embeds.shape[1]
        logits = self.cls(output.last_hidden_state[:, skipped:])
        if return_logits:
            return logits
        result = masked_lm_output(output, logits, None if labels is None else lm_loss(logits, labels))
        return result.to_tuple() if return_dict is False else result
