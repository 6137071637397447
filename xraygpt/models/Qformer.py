"""The Q-Former of BLIP-2 (Li et al., 2023): a BERT whose learnt query tokens look at the image.

Queries and text share self-attention; every `cross_attention_freq`-th layer lets the queries, and only
them, attend to the image; queries and text have separate feed-forward parts. With `text=False` the text
half (word and position embeddings, text feed-forward parts) is not built.

Shapes: B samples, Q query tokens, L text tokens, T = Q + L positions, N image tokens, D hidden size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.models.bert.modeling_bert import BertIntermediate as BertIntermediate
from transformers.models.bert.modeling_bert import BertLMPredictionHead as BertLMPredictionHead
from transformers.models.bert.modeling_bert import BertOnlyMLMHead as BertOnlyMLMHead
from transformers.models.bert.modeling_bert import BertOutput as BertOutput
from transformers.models.bert.modeling_bert import BertPooler as BertPooler
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform as BertPredictionHeadTransform
from transformers.models.bert.modeling_bert import BertSelfOutput as BertSelfOutput

from xraygpt.models.bert import (
    AttentionLayer,
    BertBackbone,
    BertConfig,
    KeyValue,
    LayerStack,
    PastKeyValues,
    passing_on,
)
from xraygpt.models.bert import BertAttention as BertAttention
from xraygpt.models.bert import BertPreTrainedModel as BertPreTrainedModel
from xraygpt.models.bert import BertSelfAttention as BertSelfAttention
from xraygpt.models.bert import KeyValueCache as KeyValueCache
from xraygpt.models.bert import TextEmbeddings as BertEmbeddings
from xraygpt.models.bert_lm import CausalLM, PredictionModel, SearchResult, SearchSettings


@dataclass
class QformerConfig(BertConfig):
    """Sizes of the Q-Former; the defaults are BLIP-2's (BERT-base, 32 queries, image every 2nd layer)."""

    cross_attention_freq: int = 2
    """Every how many layers the queries attend to the image, starting with the first."""
    query_length: int = 32
    """Number of query tokens."""


class BertLayer(AttentionLayer):
    """Self-attention for all, cross-attention for the queries, a feed-forward part for each of the two."""

    def __init__(self, config: QformerConfig, layer_num: int, text: bool = True) -> None:
        looks = config.add_cross_attention and layer_num % config.cross_attention_freq == 0
        super().__init__(config, looks, text)
        self.intermediate_query = BertIntermediate(config)
        self.output_query = BertOutput(config)

    @passing_on(AttentionLayer.attend)
    def forward(
        self, hidden_states: Tensor, *arguments: Any, query_length: int = 0, **named: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None, KeyValue]:
        """As `attend`, with the first `query_length` positions being queries, then the feed-forward parts."""
        queries, text, own_map, cross_map, key_value = self.attend(
            query_length, hidden_states, *arguments, **named
        )
        outputs = [self.feed_forward_chunk_query(queries)] if query_length > 0 else []
        if text.shape[1] > 0:
            outputs.append(self.feed_forward_chunk(text))
        output = torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]
        return output, own_map, cross_map, key_value[:2]

    def feed_forward_chunk_query(self, attention_output: Tensor) -> Tensor:
        """The queries' feed-forward part."""
        return self.output_query(self.intermediate_query(attention_output), attention_output)


class BertEncoder(LayerStack):
    """The stack of layers."""

    def __init__(self, config: QformerConfig, text: bool = True) -> None:
        layers = (BertLayer(config, i, text) for i in range(config.num_hidden_layers))
        super().__init__(layers, config.gradient_checkpointing)


class BertModel(BertBackbone):
    """Embeddings, layers and optionally a pooler; see `BertBackbone.forward`."""

    def __init__(self, config: QformerConfig, add_pooling_layer: bool = False, text: bool = True) -> None:
        super().__init__(config, BertEmbeddings(config, text), BertEncoder(config, text), add_pooling_layer)
        self.query_length = config.query_length


class QueryModel(BertPreTrainedModel):
    """The query half alone, under the same key prefix `bert` as in the models with a prediction head."""

    def __init__(self, config: QformerConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, text=False)


class BertLMHeadModel(CausalLM):
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
        return self.write(input_ids, self.bert(**queries, use_cache=True).past_key_values, settings)


class BertForMaskedLM(PredictionModel):
    """The Q-Former predicting masked words from both sides, with or without queries."""

    def __init__(self, config: QformerConfig) -> None:
        super().__init__(config, BertModel(config))
