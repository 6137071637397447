"""Layers of the Q-Former: embeddings, a layer and the stack of layers.

Queries and text share self-attention; every `cross_attention_freq`-th layer lets the queries, and only
them, attend to the image; queries and text have separate feed-forward parts. With `text=False` the text
half (word and position embeddings, text feed-forward parts) is not built.

Shapes: B samples, Q query tokens, L text tokens, T = Q + L positions, N image tokens, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xraygpt.models.bert_attention import BertAttention, KeyValue
from xraygpt.models.bert_blocks import BertIntermediate, BertOutput
from xraygpt.models.bert_config import BertConfig
from xraygpt.models.bert_embeddings import TextEmbeddings
from xraygpt.models.bert_encoder import EncoderResult, LayerResult, LayerStack


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
