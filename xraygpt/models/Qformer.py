"""The Q-Former of BLIP-2 (Li et al., 2023): a BERT whose learnt query tokens look at the image.

Shapes: B samples, Q query tokens, L text tokens, T = Q + L positions, N image tokens, D hidden size.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    MaskedLMOutput,
)

from xraygpt.models.bert_attention import (
    BertAttention,
    BertSelfAttention,
    BertSelfOutput,
    KeyValue,
    additive_mask,
    per_layer_head_mask,
)
from xraygpt.models.bert_blocks import (
    BertIntermediate,
    BertLMPredictionHead,
    BertOnlyMLMHead,
    BertOutput,
    BertPooler,
    BertPredictionHeadTransform,
    causal_lm_loss,
    lm_loss,
)
from xraygpt.models.bert_encoder import KeyValueCache
from xraygpt.models.bert_generation import SearchResult, SearchSettings, search
from xraygpt.models.bert_model import (
    BertBackbone,
    BertPreTrainedModel,
    PredictionModel,
    causal_lm_output,
    masked_lm_output,
)
from xraygpt.models.qformer_layers import BertEmbeddings, BertEncoder, BertLayer, QformerConfig

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
