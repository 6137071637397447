"""BERT, written once for the Q-Former and for BLIP: sizes, attention and its masks, blocks, embeddings, the
stack of layers with its cache, and the base classes of the models.

Attention has two paths that compute the same numbers: `F.scaled_dot_product_attention`, and an explicit
one that keeps the (B, H, T, S) probabilities for whoever asks for them or needs to change them. Parameter
names are those of the published BERT, BLIP and BLIP-2 weights.

Shapes: B sequences, T given positions (of the queries, in attention), S cached and given positions (of the
keys), L text tokens, D = hidden size, H heads, d = D / H, V = vocabulary.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    MaskedLMOutput,
)

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}


@dataclass
class BertConfig:
    """Sizes of a BERT; the defaults are those of bert-base-uncased."""

    vocab_size: int = 30522
    """Number of token ids."""
    hidden_size: int = 768
    """Width D of the hidden states."""
    num_hidden_layers: int = 12
    """Number of layers."""
    num_attention_heads: int = 12
    """Attention heads per layer."""
    intermediate_size: int = 3072
    """Width of the feed-forward part."""
    hidden_act: str = "gelu"
    """Activation: gelu, relu or silu."""
    hidden_dropout_prob: float = 0.1
    """Dropout on embeddings and on the output of each sub-layer."""
    attention_probs_dropout_prob: float = 0.1
    """Dropout on the attention probabilities."""
    max_position_embeddings: int = 512
    """Longest text, in tokens."""
    initializer_range: float = 0.02
    """Standard deviation of the random initialisation."""
    layer_norm_eps: float = 1e-12
    """Epsilon of the layer norms."""
    pad_token_id: int = 0
    """Token id of padding."""
    position_embedding_type: str = "absolute"
    """absolute, relative_key (Shaw et al., 2018) or relative_key_query (Huang et al., 2020)."""
    add_cross_attention: bool = True
    """Whether layers can attend to encoder states (the image)."""
    encoder_width: int = 1408
    """Width of those encoder states."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act must be one of {sorted(ACTIVATIONS)}, not {self.hidden_act!r}")
        kinds = ("absolute", "relative_key", "relative_key_query")
        if self.position_embedding_type not in kinds:
            raise ValueError(
                f"position_embedding_type must be one of {kinds}, not {self.position_embedding_type!r}"
            )


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


LABEL_SMOOTHING = 0.1
"""Label smoothing of the language-modelling losses of BLIP and BLIP-2."""

IGNORED_LABEL = -100
"""Label of positions that do not count in a loss."""


class BertIntermediate(nn.Module):
    """First half of the feed-forward part: D -> intermediate size, activation."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.intermediate_act_fn(self.dense(hidden_states))


class BertOutput(nn.Module):
    """Second half of the feed-forward part: back to D, dropout, residual, layer norm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(hidden_states)) + input_tensor)


class BertPooler(nn.Module):
    """tanh of a projection of the first position: (B, T, D) -> (B, D)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.activation(self.dense(hidden_states[:, 0]))


class BertPredictionHeadTransform(nn.Module):
    """Linear, activation, layer norm before the vocabulary projection."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.transform_act_fn = ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.LayerNorm(self.transform_act_fn(self.dense(hidden_states)))


class BertLMPredictionHead(nn.Module):
    """(B, T, D) -> (B, T, vocabulary). Its `bias` is also `decoder.bias`: two names, one parameter."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.decoder.bias = self.bias

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.decoder(self.transform(hidden_states))


class BertOnlyMLMHead(nn.Module):
    """The prediction head under the key prefix `predictions`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.predictions = BertLMPredictionHead(config)

    def forward(self, sequence_output: Tensor) -> Tensor:
        return self.predictions(sequence_output)


def init_bert_weights(module: nn.Module, initializer_range: float) -> None:
    """BERT's initialisation of one module: normal weights, zero biases, unit layer norms."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, mean=0.0, std=initializer_range)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class SoftLabels(NamedTuple):
    """A teacher's answer beside the true labels, for distillation (ALBEF)."""

    probabilities: Tensor
    """(B, T, V)"""
    weight: float
    """Part of the loss that they make up, 0 to 1."""


def lm_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "none"] = "mean",
    soft_labels: SoftLabels | None = None,
) -> Tensor:
    """Cross-entropy of `logits` (B, T, V) at `labels` (B, T); labels of -100 do not count.

    "mean" is over the labels that count (0 if there is none), "none" gives the sum per sequence, (B,).
    """
    flat = logits.float().flatten(0, 1)
    losses = F.cross_entropy(
        flat,
        labels.flatten(),
        ignore_index=IGNORED_LABEL,
        reduction="none",
        label_smoothing=label_smoothing,
    ).view(labels.shape)
    counted = labels != IGNORED_LABEL
    if soft_labels is not None:
        soft = F.cross_entropy(flat, soft_labels.probabilities.flatten(0, 1), reduction="none")
        losses = torch.lerp(losses, soft.view(labels.shape) * counted, soft_labels.weight)
    if reduction == "none":
        return losses.sum(dim=1)
    return losses.sum() / counted.sum().clamp(min=1)


def causal_lm_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = LABEL_SMOOTHING,
    reduction: Literal["mean", "none"] = "mean",
    soft_labels: SoftLabels | None = None,
) -> Tensor:
    """`lm_loss` of predicting position t + 1 from position t; soft labels are (B, T - 1, V)."""
    return lm_loss(
        logits[:, :-1],
        labels[:, 1:],
        label_smoothing=label_smoothing,
        reduction=reduction,
        soft_labels=soft_labels,
    )


class TextEmbeddings(nn.Module):
    """The tables, layer norm and dropout of BERT's embeddings; subclasses say what is added up.

    With `text=False` word and position embeddings are not built.
    """

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

    def embed_words(self, input_ids: Tensor) -> Tensor:
        """(B, L) token ids -> (B, L, D)."""
        if self.word_embeddings is None:
            raise ValueError(
                "this Q-Former was built without its text half (text=False): it takes no input_ids"
            )
        return self.word_embeddings(input_ids)

    def add_positions(self, embeddings: Tensor, position_ids: Tensor | None, past: int) -> Tensor:
        """Add absolute positions, counted from `past` on unless `position_ids` (B, L) or (1, L) are given.

        With relative positions nothing is added: they act in the attention scores.
        """
        if self.position_embedding_type != "absolute" or self.position_embeddings is None:
            return embeddings
        if position_ids is None:
            end = past + embeddings.shape[1]
            if end > self.position_ids.shape[1]:
                raise ValueError(
                    f"a text of {end} tokens is longer than the limit, {self.position_ids.shape[1]}"
                )
            position_ids = self.position_ids[:, past:end]
        return embeddings + self.position_embeddings(position_ids)


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


class BertPreTrainedModel(nn.Module):
    """Base of all models: their configuration and BERT's weight initialisation."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config

    def _init_weights(self, module: nn.Module) -> None:
        init_bert_weights(module, self.config.initializer_range)

    def init_weights(self) -> None:
        for module in self.modules():
            self._init_weights(module)


class BertBackbone(BertPreTrainedModel):
    """Embeddings, layers and optionally a pooler; subclasses say what goes in."""

    def __init__(
        self, config: BertConfig, embeddings: TextEmbeddings, encoder: LayerStack, add_pooling_layer: bool
    ) -> None:
        super().__init__(config)
        self.embeddings = embeddings
        self.encoder = encoder
        self.pooler = BertPooler(config) if add_pooling_layer else None
        self.init_weights()

    def get_input_embeddings(self) -> nn.Embedding | None:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.word_embeddings = value

    def prune_heads(self, heads_to_prune: dict[int, list[int]]) -> None:
        """Remove self-attention heads: {layer: [head, ...]}, heads numbered as before any pruning.

        Cross-attention keeps all its heads, as in the reference.
        """
        for layer, heads in heads_to_prune.items():
            self.encoder.layers()[layer].attention.prune_heads(heads)

    def get_extended_attention_mask(
        self,
        attention_mask: Tensor,
        input_shape: tuple[int, int],
        device: torch.device,
        is_decoder: bool,
        has_query: bool = False,
    ) -> Tensor:
        """Additive mask, broadcastable to (B, H, T, S), from a 0/1 mask (B, S) or (B, T, S).

        `input_shape` is (B, L) of the text if `is_decoder`; `has_query` says that queries stand before the
        text in the sequence itself, not in a cache.
        """
        attention_mask = attention_mask.to(device)
        if is_decoder and attention_mask.dim() == 2:
            attention_mask = causal_mask(attention_mask, input_shape[1], prefix_in_sequence=has_query)
        return additive_mask(attention_mask)

    def self_attention_mask(
        self,
        attention_mask: Tensor | None,
        embedded: Tensor,
        text_length: int,
        past_length: int,
        is_decoder: bool,
    ) -> Tensor | None:
        """The additive mask of a pass over `embedded` (B, T, D); None if everything sees everything."""
        if attention_mask is None:
            if not is_decoder:
                return None
            attention_mask = embedded.new_ones(embedded.shape[0], embedded.shape[1] + past_length)
        return self.get_extended_attention_mask(
            attention_mask,
            (embedded.shape[0], text_length),
            embedded.device,
            is_decoder,
            has_query=embedded.shape[1] > text_length,
        )

    def output(
        self, result: EncoderResult, cache: KeyValueCache | None, with_maps: bool, with_states: bool
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        """The result of the layers in transformers' form."""
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=result.hidden_states,
            pooler_output=None if self.pooler is None else self.pooler(result.hidden_states),
            # A tuple per layer, as in the reference, not transformers' Cache class.
            past_key_values=cache,  # type: ignore[arg-type]
            hidden_states=tuple(result.all_hidden_states) if with_states else None,
            attentions=tuple(result.self_attentions) if with_maps else None,  # type: ignore[arg-type]
            cross_attentions=tuple(result.cross_attentions) if with_maps else None,  # type: ignore[arg-type]
        )


class PredictionModel(BertPreTrainedModel):
    """A backbone `bert` and the prediction head `cls`, its output embedding tied to the word embedding."""

    def __init__(self, config: BertConfig, bert: BertBackbone) -> None:
        super().__init__(config)
        self.bert = bert
        self.cls = BertOnlyMLMHead(config)
        for module in self.cls.modules():
            self._init_weights(module)
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


def causal_lm_output(
    encoded: BaseModelOutputWithPoolingAndCrossAttentions, logits: Tensor, loss: Tensor | None
) -> CausalLMOutputWithCrossAttentions:
    """`logits` (B, L, V) and what the backbone returned, in transformers' form."""
    return CausalLMOutputWithCrossAttentions(
        loss=loss,
        logits=logits,
        past_key_values=encoded.past_key_values,
        hidden_states=encoded.hidden_states,
        attentions=encoded.attentions,
        cross_attentions=encoded.cross_attentions,
    )


def masked_lm_output(
    encoded: BaseModelOutputWithPoolingAndCrossAttentions, logits: Tensor, loss: Tensor | None
) -> MaskedLMOutput:
    """As `causal_lm_output`, without a cache."""
    return MaskedLMOutput(
        loss=loss,
        logits=logits,
        hidden_states=encoded.hidden_states,
        attentions=encoded.attentions,
    )
