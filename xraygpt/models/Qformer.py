"""The Q-Former of BLIP-2 (Li et al., 2023): a BERT whose learnt query tokens look at the image.

Queries and text share self-attention; every `cross_attention_freq`-th layer lets the queries, and only
them, attend to the image; queries and text have separate feed-forward parts. With `text=False` the text
half (word and position embeddings, text feed-forward parts) is not built.

Shapes: B samples, Q query tokens, L text tokens, T = Q + L positions, N image tokens, D hidden size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xraygpt.models.bert import (
    BertAttention,
    BertBackbone,
    BertConfig,
    BertIntermediate,
    BertOutput,
    BertPooler,
    BertPreTrainedModel,
    BertSelfAttention,
    BertSelfOutput,
    KeyValue,
    KeyValueCache,
    LayerStack,
    PastKeyValues,
    TextEmbeddings,
)
from xraygpt.models.bert_lm import (
    BertLMPredictionHead,
    BertOnlyMLMHead,
    BertPredictionHeadTransform,
    CausalLanguageModel,
    MaskedLanguageModel,
    SearchResult,
    SearchSettings,
    search,
)

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
    ) -> tuple[Tensor, Tensor | None, Tensor | None, KeyValue]:
        """Run the layer on `hidden_states` (B, T, D), the first `query_length` positions being queries.

        Returns:
            Hidden states, maps of self- and cross-attention (B, H, T or Q, keys) if asked for, and the keys
            and values of self-attention.
        """
        attended, own_map, key_value = self.attention(
            hidden_states,
            attention_mask,
            head_mask,
            past_key_value=past_key_value,
            output_attentions=output_attentions,
        )
        queries, text = attended[:, :query_length], attended[:, query_length:]
        cross_map = None
        if query_length > 0 and self.has_cross_attention:
            if encoder_hidden_states is None:
                raise ValueError("query tokens need encoder_hidden_states (the image) to attend to")
            queries, cross_map, _ = self.crossattention(
                queries,
                head_mask=head_mask,
                encoder_hidden_states=encoder_hidden_states,
                encoder_attention_mask=encoder_attention_mask,
                output_attentions=output_attentions,
            )
        outputs = [self.feed_forward_chunk_query(queries)] if query_length > 0 else []
        if text.shape[1] > 0:
            outputs.append(self.feed_forward_chunk(text))
        output = torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]
        return output, own_map, cross_map, key_value

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


class BertModel(BertBackbone):
    """Embeddings, layers and optionally a pooler; see `BertBackbone.forward`.

    Text sees all queries; as decoder (`is_decoder`) queries see queries only.
    """

    def __init__(self, config: QformerConfig, add_pooling_layer: bool = False, text: bool = True) -> None:
        super().__init__(config, BertEmbeddings(config, text), BertEncoder(config, text), add_pooling_layer)
        self.query_length = config.query_length

    def embed(
        self,
        input_ids: Tensor | None,
        position_ids: Tensor | None,
        past_length: int,
        query_embeds: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """The query tokens `query_embeds` (B, Q, D), which need an image, stand before the text."""
        embedded = self.embeddings(input_ids, position_ids, query_embeds, past_length)
        return embedded, {"query_length": 0 if query_embeds is None else query_embeds.shape[1]}


class QueryModel(BertPreTrainedModel):
    """The query half alone, under the same key prefix `bert` as in the models with a prediction head."""

    def __init__(self, config: QformerConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, text=False)


class BertLMHeadModel(CausalLanguageModel):
    """The Q-Former as a left-to-right language model of the text, given the queries."""

    config: QformerConfig

    def __init__(self, config: QformerConfig) -> None:
        super().__init__(config, BertModel(config))

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        query_embeds: Tensor | None,
        past: PastKeyValues = None,
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
        inputs = super().prepare_inputs_for_generation(input_ids, past, attention_mask, **model_kwargs)
        return inputs | {"query_embeds": query_embeds}

    @torch.no_grad()
    def generate(self, input_ids: Tensor, settings: SearchSettings, **queries: Tensor | None) -> SearchResult:
        """Write a text for each image, after the start tokens `input_ids` (B, L).

        `queries` are `query_embeds`, `encoder_hidden_states` and `encoder_attention_mask`. They are run
        once; their cache stands for them from then on.
        """

        def step(tokens: Tensor, cache: Any) -> tuple[Tensor, KeyValueCache]:
            output = self(tokens, past_key_values=cache)
            return output.logits[:, -1], output.past_key_values

        return search(step, input_ids, self.bert(**queries, use_cache=True).past_key_values, settings)


class BertForMaskedLM(MaskedLanguageModel):
    """The Q-Former predicting masked words from both sides, with or without queries."""

    def __init__(self, config: QformerConfig) -> None:
        super().__init__(config, BertModel(config))
