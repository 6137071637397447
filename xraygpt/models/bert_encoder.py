"""A stack of BERT layers and its cache, shared by the Q-Former and by BLIP's BERT.

Shapes: B sequences, T positions, S cached and given positions, H heads, d = head size, D = hidden size.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xraygpt.models.bert_attention import KeyValue


class KeyValueCache(tuple[KeyValue, ...]):
    """Keys and values of self-attention, a pair of (B, H, S, d) per layer.

    Attributes:
        query_length: how many of the cached positions are query tokens, not text.
        cross: keys and values of cross-attention per layer, which stay the same from token to token;
            None for a layer that has none, empty if they are not kept.
    """

    query_length: int
    cross: tuple[KeyValue | None, ...]

    def __new__(
        cls, layers: Iterable[KeyValue], query_length: int = 0, cross: Iterable[KeyValue | None] = ()
    ) -> "KeyValueCache":
        cache = super().__new__(cls, layers)
        cache.query_length = query_length
        cache.cross = tuple(cross)
        return cache

    def reorder(self, rows: Tensor) -> "KeyValueCache":
        """The cache with its batch rows rearranged, for beam search and for repeated rows."""
        layers = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self]
        cross = [
            None if pair is None else (pair[0].index_select(0, rows), pair[1].index_select(0, rows))
            for pair in self.cross
        ]
        return KeyValueCache(layers, self.query_length, cross)


class LayerResult(NamedTuple):
    """What one layer returns; maps are (B, H, T, keys), only if asked for."""

    hidden_states: Tensor
    self_attention: Tensor | None
    cross_attention: Tensor | None
    key_value: KeyValue
    cross_key_value: KeyValue | None


class EncoderResult(NamedTuple):
    """What a stack of layers returns; lists are indexed by layer."""

    hidden_states: Tensor
    key_values: list[KeyValue]
    cross_key_values: list[KeyValue | None]
    all_hidden_states: list[Tensor]
    self_attentions: list[Tensor | None]
    cross_attentions: list[Tensor | None]


class LayerStack(nn.Module):
    """Layers run one after the other, on request with their activations recomputed in the backward pass."""

    def __init__(self, layers: Iterable[nn.Module], gradient_checkpointing: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)
        self.gradient_checkpointing = gradient_checkpointing

    def layers(self) -> list[Any]:
        """The layers, first to last."""
        return list(self.layer)

    def run(
        self, hidden_states: Tensor, arguments: Sequence[tuple[Any, ...]], first: int = 0
    ) -> EncoderResult:
        """Run as many layers as there are `arguments`, from layer `first` on, on `hidden_states` (B, T, D).

        Each layer is called with the hidden states before it, followed by its own arguments.
        """
        result = EncoderResult(hidden_states, [], [], [hidden_states], [], [])
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for layer, own in zip(self.layers()[first : first + len(arguments)], arguments, strict=True):
            inputs = (result.hidden_states, *own)
            output = checkpoint(layer, *inputs, use_reentrant=False) if recompute else layer(*inputs)
            result = result._replace(hidden_states=output.hidden_states)
            result.key_values.append(output.key_value)
            result.cross_key_values.append(output.cross_key_value)
            result.all_hidden_states.append(output.hidden_states)
            result.self_attentions.append(output.self_attention)
            result.cross_attentions.append(output.cross_attention)
        return result
