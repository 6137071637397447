"""Layers of the Q-Former: embeddings, a layer, the stack of layers, and its cache.

Queries and text share self-attention; every `cross_attention_freq`-th layer lets the queries, and only
them, attend to the image; queries and text have separate feed-forward parts. With `text=False` the text
half (word and position embeddings, text feed-forward parts) is not built.

Shapes: B samples, Q query tokens, L text tokens, T = Q + L positions, N image tokens, D hidden size.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xraygpt.models.bert_attention import BertAttention, KeyValue
from xraygpt.models.bert_blocks import BertIntermediate, BertOutput
from xraygpt.models.bert_config import BertConfig


@dataclass
class QformerConfig(BertConfig):
    """Sizes of the Q-Former; the defaults are BLIP-2's (BERT-base, 32 queries, image every 2nd layer)."""

    cross_attention_freq: int = 2
    """Every how many layers the queries attend to the image, starting with the first."""
    query_length: int = 32
    """Number of query tokens."""


class KeyValueCache(tuple[KeyValue, ...]):
    """Keys and values per layer, and how many of the cached positions are queries, not text."""

    query_length: int

    def __new__(cls, layers: Iterable[KeyValue], query_length: int) -> "KeyValueCache":
        cache = super().__new__(cls, layers)
        cache.query_length = query_length
        return cache

    def reorder(self, rows: Tensor) -> "KeyValueCache":
        """The cache with its batch rows rearranged, for beam search and for repeated rows."""
        layers = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self]
        return KeyValueCache(layers, self.query_length)


class LayerResult(NamedTuple):
    """What one layer returns."""

    hidden_states: Tensor
    self_attention: Tensor | None
    cross_attention: Tensor | None
    key_value: KeyValue


class EncoderResult(NamedTuple):
    """What the stack of layers returns; lists are indexed by layer."""

    hidden_states: Tensor
    key_values: list[KeyValue]
    all_hidden_states: list[Tensor]
    self_attentions: list[Tensor | None]
    cross_attentions: list[Tensor | None]


class BertEmbeddings(nn.Module):
    """Query embeddings, followed by word plus position embeddings of the text; layer norm, dropout."""

    position_ids: Tensor

    def __init__(self, config: BertConfig, text: bool = True) -> None:
        super().__init__()
        self.word_embeddings: nn.Embedding | None = None
        self.position_embeddings: nn.Embedding | None = None
        if text:
            self.word_embeddings = nn.Embedding(
                config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id
            )
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        # A persistent buffer, because the published weights have it.
        self.register_buffer("position_ids", torch.arange(config.max_position_embeddings)[None])
        self.position_embedding_type = config.position_embedding_type

    def _embed_text(self, input_ids: Tensor, position_ids: Tensor | None, past: int) -> Tensor:
        if self.word_embeddings is None or self.position_embeddings is None:
            raise ValueError(
                "this Q-Former was built without its text half (text=False): it takes no input_ids"
            )
        embeddings = self.word_embeddings(input_ids)
        if self.position_embedding_type != "absolute":
            return embeddings
        if position_ids is None:
            end = past + input_ids.shape[1]
            if end > self.position_ids.shape[1]:
                raise ValueError(
                    f"a text of {end} tokens is longer than the limit, {self.position_ids.shape[1]}"
                )
            position_ids = self.position_ids[:, past:end]
        return embeddings + self.position_embeddings(position_ids)

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
            parts.append(self._embed_text(input_ids, position_ids, past_key_values_length))
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
        return LayerResult(output, attended.probabilities, cross_map, attended.key_value)

    def feed_forward_chunk(self, attention_output: Tensor) -> Tensor:
        """The text's feed-forward part."""
        return self.output(self.intermediate(attention_output), attention_output)

    def feed_forward_chunk_query(self, attention_output: Tensor) -> Tensor:
        """The queries' feed-forward part."""
        return self.output_query(self.intermediate_query(attention_output), attention_output)


class BertEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: QformerConfig, text: bool = True) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config, i, text) for i in range(config.num_hidden_layers))
        self.gradient_checkpointing = config.gradient_checkpointing

    def layers(self) -> list[BertLayer]:
        """The layers, first to last."""
        return [layer for layer in self.layer if isinstance(layer, BertLayer)]

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: list[Tensor | None] | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: tuple[KeyValue, ...] | None = None,
        output_attentions: bool = False,
        query_length: int = 0,
    ) -> EncoderResult:
        result = EncoderResult(hidden_states, [], [hidden_states], [], [])
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for i, layer in enumerate(self.layers()):
            inputs = (
                result.hidden_states,
                attention_mask,
                None if head_mask is None else head_mask[i],
                encoder_hidden_states,
                encoder_attention_mask,
                None if past_key_values is None else past_key_values[i],
                output_attentions,
                query_length,
            )
            output = checkpoint(layer, *inputs, use_reentrant=False) if recompute else layer(*inputs)
            result = result._replace(hidden_states=output.hidden_states)
            result.key_values.append(output.key_value)
            result.all_hidden_states.append(output.hidden_states)
            result.self_attentions.append(output.self_attention)
            result.cross_attentions.append(output.cross_attention)
        return result
