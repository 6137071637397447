"""BERT's attention and its masks, written once for the Q-Former and for BLIP's text encoder.

Shapes: B sequences, T query positions, S key positions, D = hidden size, H heads, d = D / H.
Attention has two paths that compute the same numbers: `F.scaled_dot_product_attention`, and an explicit
one that keeps the (B, H, T, S) probabilities for whoever asks for them or needs to change them.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xraygpt.models.bert_config import BertConfig

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each (B, H, S, d)."""

MASKED_SCORE = -10000.0
"""What is added to the score of a masked position; small enough for float16, exp() of it is 0."""


class AttentionResult(NamedTuple):
    """What an attention module returns."""

    context: Tensor
    """(B, T, D)"""
    probabilities: Tensor | None
    """(B, H, T, S), only if asked for"""
    key_value: KeyValue
    """keys and values, for the cache"""


class BertSelfAttention(nn.Module):
    """Multi-head attention; with `is_cross_attention` keys and values come from encoder states.

    Set `save_attention` to keep the probabilities of the next forward pass (`get_attention_map`) and,
    after a backward pass, their gradients (`get_attn_gradients`), both (B, H, T, S).
    """

    def __init__(self, config: BertConfig, is_cross_attention: bool) -> None:
        super().__init__()
        self.is_cross_attention = is_cross_attention
        self.num_attention_heads = config.num_attention_heads
        self.attention_head_size = config.hidden_size // config.num_attention_heads
        width = config.hidden_size
        source_width = config.encoder_width if is_cross_attention else width
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.position_embedding_type = config.position_embedding_type
        if self.position_embedding_type != "absolute":
            self.max_position_embeddings = config.max_position_embeddings
            self.distance_embedding = nn.Embedding(
                2 * config.max_position_embeddings - 1, self.attention_head_size
            )
        self.save_attention = False
        self._attention_map: Tensor | None = None
        self._attn_gradients: Tensor | None = None

    def save_attn_gradients(self, attn_gradients: Tensor) -> None:
        self._attn_gradients = attn_gradients

    def get_attn_gradients(self) -> Tensor | None:
        return self._attn_gradients

    def save_attention_map(self, attention_map: Tensor) -> None:
        self._attention_map = attention_map

    def get_attention_map(self) -> Tensor | None:
        return self._attention_map

    def transpose_for_scores(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, H, S, d)"""
        return x.unflatten(-1, (self.num_attention_heads, self.attention_head_size)).transpose(1, 2)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_value: KeyValue | None = None,
        output_attentions: bool = False,
    ) -> AttentionResult:
        """Masks are additive and broadcast to (B, H, T, S); `head_mask` multiplies the probabilities.

        `past_key_value` precedes the own keys and values; in cross-attention it stands for those of the
        encoder states, which are the same at every step.
        """
        query = self.transpose_for_scores(self.query(hidden_states))
        mask = encoder_attention_mask if self.is_cross_attention else attention_mask
        if self.is_cross_attention and past_key_value is not None:
            key, value = past_key_value
        else:
            source = encoder_hidden_states if self.is_cross_attention else hidden_states
            key = self.transpose_for_scores(self.key(source))
            value = self.transpose_for_scores(self.value(source))
            if past_key_value is not None:
                key = torch.cat([past_key_value[0], key], dim=2)
                value = torch.cat([past_key_value[1], value], dim=2)
        if mask is not None:
            mask = mask.to(query.dtype)

        explicit = output_attentions or self.save_attention or head_mask is not None
        probabilities = None
        if explicit or self.position_embedding_type != "absolute":
            context, probabilities = self._explicit_attention(query, key, value, mask, head_mask)
        else:
            dropout = self.dropout.p if self.training else 0.0
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        context = context.transpose(1, 2).flatten(2)
        return AttentionResult(context, probabilities if output_attentions else None, (key, value))

    def _explicit_attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, head_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        scores = query @ key.transpose(-1, -2)
        if self.position_embedding_type != "absolute":
            scores = scores + self._relative_scores(query, key)
        scores = scores / math.sqrt(self.attention_head_size)
        if mask is not None:
            scores = scores + mask
        probabilities = scores.softmax(dim=-1)
        if self.save_attention:
            self.save_attention_map(probabilities)
            if probabilities.requires_grad:
                probabilities.register_hook(self.save_attn_gradients)
        used = self.dropout(probabilities)
        if head_mask is not None:
            used = used * head_mask
        return used @ value, probabilities

    def _relative_scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Scores from the distance between positions, (B, H, T, S).

        The queries are the last T of the S positions, so that a cache before them only adds distance;
        in cross-attention (another sequence) both count from 0.
        """
        num_queries, num_keys = query.shape[2], key.shape[2]
        first_query = 0 if self.is_cross_attention else num_keys - num_queries
        positions_query = torch.arange(num_queries, device=query.device) + first_query
        positions_key = torch.arange(num_keys, device=query.device)
        distance = positions_query[:, None] - positions_key[None, :]
        limit = self.max_position_embeddings - 1
        embedding = self.distance_embedding(distance.clamp(-limit, limit) + limit).to(
            query.dtype
        )  # (T, S, d)
        scores = torch.einsum("bhld,lrd->bhlr", query, embedding)
        if self.position_embedding_type == "relative_key_query":
            scores = scores + torch.einsum("bhrd,lrd->bhlr", key, embedding)
        return scores


class BertSelfOutput(nn.Module):
    """Projection after attention, dropout, residual, layer norm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(hidden_states)) + input_tensor)


def _keep_rows(linear: nn.Linear, rows: Tensor) -> nn.Linear:
    linear.weight = nn.Parameter(linear.weight.detach()[rows].clone(), linear.weight.requires_grad)
    linear.bias = nn.Parameter(linear.bias.detach()[rows].clone(), linear.bias.requires_grad)
    linear.out_features = len(rows)
    return linear


class BertAttention(nn.Module):
    """Attention with its output projection; heads can be pruned."""

    def __init__(self, config: BertConfig, is_cross_attention: bool = False) -> None:
        super().__init__()
        self.self = BertSelfAttention(config, is_cross_attention)
        self.output = BertSelfOutput(config)
        self.pruned_heads: set[int] = set()

    def prune_heads(self, heads: Iterable[int]) -> None:
        """Remove `heads`, numbered as in the unpruned module; those already gone are skipped."""
        attention = self.self
        heads = set(heads)
        total = attention.num_attention_heads + len(self.pruned_heads)
        unknown = sorted(head for head in heads if not 0 <= head < total)
        if unknown:
            raise ValueError(f"heads {unknown} do not exist: the layer was built with {total} heads")
        gone = self.pruned_heads | heads
        present = [head for head in range(total) if head not in self.pruned_heads]
        kept = [i for i, head in enumerate(present) if head not in gone]
        if not kept:
            raise ValueError("at least one head of a layer must remain")
        size = attention.attention_head_size
        device = attention.query.weight.device
        rows = torch.cat([torch.arange(i * size, (i + 1) * size, device=device) for i in kept])
        for linear in (attention.query, attention.key, attention.value):
            _keep_rows(linear, rows)
        dense = self.output.dense
        dense.weight = nn.Parameter(dense.weight.detach()[:, rows].clone(), dense.weight.requires_grad)
        dense.in_features = len(rows)
        attention.num_attention_heads = len(kept)
        self.pruned_heads = gone

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_value: KeyValue | None = None,
        output_attentions: bool = False,
    ) -> AttentionResult:
        result = self.self(
            hidden_states,
            attention_mask,
            head_mask,
            encoder_hidden_states,
            encoder_attention_mask,
            past_key_value,
            output_attentions,
        )
        return result._replace(context=self.output(result.context, hidden_states))


def additive_mask(mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """0/1 mask -> what is added to attention scores, broadcastable to (B, H, T, S).

    (B, S) masks keys for every position, (B, T, S) says per position which keys it sees.
    """
    if mask.dim() == 2:
        mask = mask[:, None, None, :]
    elif mask.dim() == 3:
        mask = mask[:, None]
    else:
        raise ValueError(f"an attention mask has 2 or 3 dimensions, not shape {tuple(mask.shape)}")
    return (1.0 - mask.to(dtype)) * MASKED_SCORE


def causal_mask(attention_mask: Tensor, num_positions: int, prefix_in_sequence: bool = False) -> Tensor:
    """(B, S) mask -> (B, T, S): each of the last `num_positions` positions sees itself and what precedes.

    The S - num_positions positions before them, the prefix, are seen by all. If the prefix is part of the
    sequence itself, T = S, and its own rows see the prefix only (UniLM); otherwise the prefix comes from a
    cache and T = num_positions.
    """
    total = attention_mask.shape[1]
    prefix = total - num_positions
    positions = torch.arange(total, device=attention_mask.device)
    seen = positions[None, :] <= positions[:, None]  # (S, S)
    if prefix_in_sequence:
        in_prefix = positions < prefix
        seen = (seen & ~in_prefix[:, None]) | in_prefix[None, :]
    else:
        seen = seen[prefix:]
    return seen * (attention_mask[:, None, :] > 0)


def per_layer_head_mask(head_mask: Tensor | None, num_layers: int) -> list[Tensor | None]:
    """(H,) for all layers, or (layers, H), -> one (1, H, 1, 1) factor per layer."""
    if head_mask is None:
        return [None] * num_layers
    if head_mask.dim() == 1:
        head_mask = head_mask.expand(num_layers, -1)
    if head_mask.dim() != 2 or head_mask.shape[0] != num_layers:
        raise ValueError(
            f"head_mask must be (heads,) or ({num_layers}, heads), not shape {tuple(head_mask.shape)}"
        )
    return [row.view(1, -1, 1, 1) for row in head_mask]
