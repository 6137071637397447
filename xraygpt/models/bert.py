"""BERT, written once for the Q-Former and for BLIP, with the parameter names of the published weights. The
blocks around attention are those of transformers.

Attention has two paths that compute the same numbers: `F.scaled_dot_product_attention`, and an explicit
one that keeps the (B, H, T, S) probabilities for whoever asks for them or needs to change them.

Shapes: B sequences, T given positions (of the queries, in attention), S cached and given positions (of the
keys), L text tokens, D = hidden size, H heads, d = D / H.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions as BertModelOutput
from transformers.models.bert.modeling_bert import BertIntermediate, BertOutput, BertPooler, BertSelfOutput


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
        width, heads = self.hidden_size, self.num_attention_heads
        if width % heads:
            raise ValueError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}")
        for name, known in (
            ("hidden_act", ("gelu", "relu", "silu")),
            ("position_embedding_type", ("absolute", "relative_key", "relative_key_query")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, not {getattr(self, name)!r}")


KeyValue = tuple[Tensor, ...]
"""Keys and values of one layer's self-attention, each (B, H, S, d), followed by those of its cross-attention,
if it looked at an image: these stay the same from token to token."""


class KeyValueCache(tuple[KeyValue, ...]):
    """What the layers computed from the positions so far, a `KeyValue` for each layer that ran."""

    query_length: int
    """How many of the cached positions are query tokens, not text."""

    def __new__(cls, layers: Iterable[KeyValue] = (), query_length: int = 0) -> Self:
        cache = super().__new__(cls, layers)
        cache.query_length = query_length
        return cache

    def reorder(self, rows: Tensor) -> "KeyValueCache":
        """The cache with its batch rows rearranged, for beam search and for repeated rows."""
        layers = (tuple(part.index_select(0, rows) for part in layer) for layer in self)
        return KeyValueCache(layers, self.query_length)


Past = Sequence[KeyValue] | None
"""What is given as `past_key_values`: a cache, or a plain tuple of the same, as the reference has it."""


class BertSelfAttention(nn.Module):
    """Multi-head attention; with `is_cross_attention` keys and values come from encoder states.

    Set `save_attention` to keep the probabilities of the next forward pass (`get_attention_map`) and,
    after a backward pass, their gradients (`get_attn_gradients`), both (B, H, T, S).
    """

    def __init__(self, config: BertConfig, is_cross_attention: bool) -> None:
        super().__init__()
        self.is_cross_attention = is_cross_attention
        width = config.hidden_size
        source_width = config.encoder_width if is_cross_attention else width
        self.num_attention_heads = config.num_attention_heads
        self.attention_head_size = width // config.num_attention_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.position_embedding_type = config.position_embedding_type
        if self.position_embedding_type != "absolute":
            distances = 2 * config.max_position_embeddings - 1
            self.distance_embedding = nn.Embedding(distances, self.attention_head_size)
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

    def key_value(self, source: Tensor) -> KeyValue:
        """Keys and values of `source` (B, S, width): two of (B, H, S, d)."""
        return self.transpose_for_scores(self.key(source)), self.transpose_for_scores(self.value(source))

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_value: KeyValue | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None, KeyValue]:
        """Attend from each position of `hidden_states` (B, T, D).

        Masks are additive and broadcast to (B, H, T, S); `head_mask` multiplies the probabilities.
        `past_key_value` precedes the own keys and values, or stands for those of the encoder states.

        Returns:
            What was read (B, T, D), the probabilities (B, H, T, S) if asked for, keys and values.
        """
        query = self.transpose_for_scores(self.query(hidden_states))
        if not self.is_cross_attention:
            key, value = self.key_value(hidden_states)
            if past_key_value is not None:
                key = torch.cat([past_key_value[0], key], dim=2)
                value = torch.cat([past_key_value[1], value], dim=2)
        elif past_key_value is not None:
            key, value = past_key_value
        elif encoder_hidden_states is not None:
            key, value = self.key_value(encoder_hidden_states)
        else:
            raise ValueError(
                "cross-attention needs encoder_hidden_states (the image): the Q-Former does without if "
                'there are no query tokens, BLIP\'s BERT with mode="text"'
            )
        mask = encoder_attention_mask if self.is_cross_attention else attention_mask
        if mask is not None:
            mask = mask.to(query.dtype)

        probabilities = None
        relative = self.position_embedding_type != "absolute"
        if output_attentions or self.save_attention or head_mask is not None or relative:
            scores = query @ key.transpose(-1, -2)
            if relative:
                scores = scores + self._relative_scores(query, key)
            scores = scores / math.sqrt(self.attention_head_size)
            probabilities = (scores if mask is None else scores + mask).softmax(dim=-1)
            if self.save_attention:
                self.save_attention_map(probabilities)
                if probabilities.requires_grad:
                    probabilities.register_hook(self.save_attn_gradients)
            used = self.dropout(probabilities)
            context = (used if head_mask is None else used * head_mask) @ value
        else:
            dropout = self.dropout.p if self.training else 0.0
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        context = context.transpose(1, 2).flatten(2)
        return context, probabilities if output_attentions else None, (key, value)

    def _relative_scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Scores from the distance between positions, (B, H, T, S).

        The queries are the last T of the S positions, so that a cache before them only adds distance;
        in cross-attention (another sequence) both count from 0.
        """
        num_queries, num_keys = query.shape[2], key.shape[2]
        first_query = 0 if self.is_cross_attention else num_keys - num_queries
        positions_query = torch.arange(num_queries, device=query.device) + first_query
        distance = positions_query[:, None] - torch.arange(num_keys, device=query.device)
        limit = self.distance_embedding.num_embeddings // 2
        embedding = self.distance_embedding(distance.clamp(-limit, limit) + limit)  # (T, S, d)
        embedding = embedding.to(query.dtype)
        scores = torch.einsum("bhld,lrd->bhlr", query, embedding)
        if self.position_embedding_type == "relative_key_query":
            scores = scores + torch.einsum("bhrd,lrd->bhlr", key, embedding)
        return scores


class BertAttention(nn.Module):
    """Attention with its output projection; heads can be pruned."""

    def __init__(self, config: BertConfig, is_cross_attention: bool = False) -> None:
        super().__init__()
        self.self = BertSelfAttention(config, is_cross_attention)
        self.output = BertSelfOutput(config)
        self.pruned_heads: set[int] = set()

    def prune_heads(self, heads: Iterable[int]) -> None:
        """Remove `heads`, numbered as in the unpruned module; those already gone are skipped."""
        attention, dense = self.self, self.output.dense
        total = attention.num_attention_heads + len(self.pruned_heads)
        gone = self.pruned_heads.union(heads)
        unknown = sorted(gone - set(range(total)))
        if unknown:
            raise ValueError(f"heads {unknown} do not exist: the layer was built with {total} heads")
        if len(gone) == total:
            raise ValueError("at least one head of a layer must remain")
        kept = torch.tensor([head not in gone for head in range(total) if head not in self.pruned_heads])
        units = kept.to(dense.weight.device).repeat_interleave(attention.attention_head_size)
        for linear in (attention.query, attention.key, attention.value):
            linear.weight = nn.Parameter(linear.weight.detach()[units], linear.weight.requires_grad)
            linear.bias = nn.Parameter(linear.bias.detach()[units], linear.bias.requires_grad)
            linear.out_features = len(linear.weight)
        dense.weight = nn.Parameter(dense.weight.detach()[:, units], dense.weight.requires_grad)
        dense.in_features = attention.query.out_features
        attention.num_attention_heads = int(kept.sum())
        self.pruned_heads = gone

    @wraps(BertSelfAttention.forward)
    def forward(self, hidden_states: Tensor, *arguments: Any, **named: Any) -> Any:  # type: ignore[override]
        context, probabilities, key_value = self.self(hidden_states, *arguments, **named)
        return self.output(context, hidden_states), probabilities, key_value


def additive_mask(mask: Tensor) -> Tensor:
    """0/1 mask -> what is added to attention scores, broadcastable to (B, H, T, S).

    (B, S) masks keys for every position, (B, T, S) says per position which keys it sees.
    """
    if mask.dim() not in (2, 3):
        raise ValueError(f"an attention mask has 2 or 3 dimensions, not shape {tuple(mask.shape)}")
    mask = mask[:, None, None] if mask.dim() == 2 else mask[:, None]
    return (1.0 - mask.float()) * -10000.0  # small enough for float16, and exp() of it is 0


class TextEmbeddings(nn.Module):
    """Query tokens, then words, positions and token types of the text; layer norm, dropout.

    With `text=False` there are no tables of words and positions, without `token_types` none of these.
    """

    def __init__(self, config: BertConfig, text: bool = True, token_types: int = 0) -> None:
        super().__init__()
        width, places = config.hidden_size, config.max_position_embeddings
        words, padding = config.vocab_size, config.pad_token_id
        self.word_embeddings = nn.Embedding(words, width, padding_idx=padding) if text else None
        self.position_embeddings = nn.Embedding(places, width) if text else None
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        # A persistent buffer, because the published weights have it.
        self.position_ids = nn.Buffer(torch.arange(places)[None])
        self.position_embedding_type = config.position_embedding_type
        self.token_type_embeddings = nn.Embedding(token_types, width) if token_types else None

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        query_embeds: Tensor | None = None,
        past_key_values_length: int = 0,
        inputs_embeds: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Query tokens (B, Q, D) and `input_ids` (B, L), or words `inputs_embeds` (B, L, D) -> (B, Q + L, D).

        Absolute positions count from `past_key_values_length` on unless `position_ids` (B, L) or (1, L) are
        given; relative ones act in the attention scores. Token types (B, L) are added where they are given.
        """
        if inputs_embeds is None and input_ids is not None:
            if self.word_embeddings is None:
                raise ValueError(
                    "this Q-Former was built without its text half (text=False): it takes no input_ids"
                )
            inputs_embeds = self.word_embeddings(input_ids)
        if inputs_embeds is not None:
            if token_type_ids is not None:
                if self.token_type_embeddings is None:
                    raise ValueError("token_type_ids need a model built with add_type_embeddings=True")
                inputs_embeds = inputs_embeds + self.token_type_embeddings(token_type_ids)
            if self.position_embedding_type == "absolute" and self.position_embeddings is not None:
                end, limit = past_key_values_length + inputs_embeds.shape[1], self.position_ids.shape[1]
                if position_ids is None:
                    if end > limit:
                        raise ValueError(f"a text of {end} tokens is longer than the limit, {limit}")
                    position_ids = self.position_ids[:, past_key_values_length:end]
                inputs_embeds = inputs_embeds + self.position_embeddings(position_ids)
        parts = [part for part in (query_embeds, inputs_embeds) if part is not None]
        if not parts:
            raise ValueError(
                "nothing to read: the Q-Former needs input_ids, query_embeds or both, BLIP's BERT "
                "input_ids, inputs_embeds or encoder_embeds"
            )
        return self.dropout(self.LayerNorm(torch.cat(parts, dim=1)))


class AttentionLayer(nn.Module):
    """Self-attention, cross-attention of positions that look at the image, a feed-forward part if `text`."""

    caches_image = False
    """Whether the keys and values of the image are cached too."""

    def __init__(self, config: BertConfig, has_cross_attention: bool, text: bool = True) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.has_cross_attention = has_cross_attention
        if has_cross_attention:
            self.crossattention = BertAttention(config, is_cross_attention=True)
        if text:
            self.intermediate = BertIntermediate(config)
            self.output = BertOutput(config)

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
        """Let `hidden_states` (B, T, D) attend to each other, the first `query_length` to the image too.

        Masks are additive. An image in `past_key_value` stands for `encoder_hidden_states`.

        Returns:
            The new states, maps (B, H, T or `query_length`, S) of both if asked for, and what is cached.
        """
        past = past_key_value or ()
        states, own_map, key_value = self.attention(
            hidden_states, attention_mask, head_mask, None, None, past[:2] or None, output_attentions
        )
        queries, text, cross_map = states[:, :query_length], states[:, query_length:], None
        if query_length > 0 and self.has_cross_attention:
            image = encoder_hidden_states, encoder_attention_mask, past[2:] or None, output_attentions
            queries, cross_map, image_key_value = self.crossattention(queries, None, head_mask, *image)
            if self.caches_image:
                key_value += image_key_value
        outputs = [self.feed_forward_chunk_query(queries)] if query_length > 0 else []
        if text.shape[1] > 0:
            outputs.append(self.feed_forward_chunk(text))
        return torch.cat(outputs, dim=1), own_map, cross_map, key_value

    def feed_forward_chunk(self, attention_output: Tensor) -> Tensor:
        """The text's feed-forward part."""
        return self.output(self.intermediate(attention_output), attention_output)

    def feed_forward_chunk_query(self, attention_output: Tensor) -> Tensor:
        """The feed-forward part of what looks at the image: the text's, unless it has its own."""
        return self.feed_forward_chunk(attention_output)


OneOrMore = Tensor | Sequence[Tensor | None] | None
"""Image tokens (B, N, encoder_width), or a list of them, which the layers look at in turn; or their masks."""


def listed(value: OneOrMore) -> list[Tensor | None]:
    """A list of what may be one or several."""
    return [value] if value is None or isinstance(value, Tensor) else list(value)


class LayerStack(nn.Module):
    """Layers run one after the other, on request with their activations recomputed in the backward pass."""

    first_fusion_layer = 0
    """The layer that looks at the first of several images."""

    def __init__(self, layers: Iterable[nn.Module], gradient_checkpointing: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)
        self.gradient_checkpointing = gradient_checkpointing

    def layers(self) -> list[Any]:
        """The layers, first to last."""
        return list(self.layer)

    def layers_of(self, mode: str) -> range:
        """Numbers of the layers that run in a mode: all, where there are no modes."""
        return range(len(self.layer))

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: OneOrMore = None,
        encoder_attention_mask: OneOrMore = None,
        past_key_values: Past = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = False,
        output_hidden_states: bool | None = False,
        **own: Any,
    ) -> BertModelOutput:
        """Run the layers on `hidden_states` (B, T, D); masks are additive, `head_mask` (layers, 1, H, 1, 1).

        `own` is what only some layers take: `query_length` of the Q-Former, `mode` of BLIP's BERT.
        """
        images = listed(encoder_hidden_states)
        masks = [None] * len(images) if encoder_attention_mask is None else listed(encoder_attention_mask)
        looks = list(zip(images, masks, strict=True))
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        results: list[tuple[Any, ...]] = []
        last = hidden_states
        for turn, number in enumerate(self.layers_of(own.get("mode", "multimodal"))):
            head = None if head_mask is None else head_mask[number]
            look = looks[(number - self.first_fusion_layer) % len(looks)]
            past = past_key_values[turn] if past_key_values else None
            layer = self.layer[number]
            run = partial(checkpoint, layer, use_reentrant=False) if recompute else layer
            results.append(run(last, attention_mask, head, *look, past, bool(output_attentions), **own))
            last = results[-1][0]
        states, maps, cross_maps, key_values = zip(*results, strict=True) if results else ((),) * 4
        return BertModelOutput(
            last_hidden_state=last,
            hidden_states=(hidden_states, *states) if output_hidden_states else None,
            # A tuple per layer, as in the reference, not transformers' Cache class.
            past_key_values=key_values if use_cache else None,  # type: ignore[arg-type]
            attentions=maps if output_attentions else None,
            cross_attentions=cross_maps if output_attentions else None,
        )


class BertPreTrainedModel(nn.Module):
    """Base of all models: their configuration and BERT's weight initialisation."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights, zero biases, unit layer norms."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


class BertBackbone(BertPreTrainedModel):
    """Embeddings, layers and optionally a pooler; subclasses say what goes in."""

    def __init__(
        self, config: BertConfig, embeddings: TextEmbeddings, encoder: LayerStack, add_pooling_layer: bool
    ) -> None:
        super().__init__(config)
        self.embeddings = embeddings
        self.encoder = encoder
        self.pooler = BertPooler(config) if add_pooling_layer else None
        self.apply(self._init_weights)

    def get_input_embeddings(self) -> nn.Embedding | None:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.word_embeddings = value

    def prune_heads(self, heads_to_prune: dict[int, list[int]]) -> None:
        """Remove heads of self-attention, {layer: [head, ...]}, numbered as before any pruning."""
        for layer, heads in heads_to_prune.items():
            self.encoder.layers()[layer].attention.prune_heads(heads)

    _prune_heads = prune_heads

    def get_extended_attention_mask(
        self,
        attention_mask: Tensor,
        input_shape: tuple[int, int],
        device: torch.device,
        is_decoder: bool,
        has_query: bool = False,
    ) -> Tensor:
        """Additive mask, broadcastable to (B, H, T, S), from a 0/1 mask (B, S) or (B, T, S).

        As decoder each of the last L positions, the text of `input_shape` (B, L), sees itself and all before.
        With `has_query` the queries are in the sequence itself, not in a cache, and see only each other.
        """
        mask = attention_mask.to(device)
        if is_decoder and mask.dim() == 2:
            prefix = mask.shape[1] - input_shape[1]
            positions = torch.arange(mask.shape[1], device=device)
            seen = (positions <= positions[:, None]) | (positions < prefix)  # (S, S)
            mask = (seen if has_query else seen[prefix:]) * (mask[:, None] > 0)
        return additive_mask(mask)

    def cache(self, past: Past) -> KeyValueCache:
        """`past` as a cache that knows its query tokens: a plain tuple has all of the Q-Former's."""
        if isinstance(past, KeyValueCache):
            return past
        return KeyValueCache(past, getattr(self.config, "query_length", 0)) if past else KeyValueCache()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        query_embeds: Tensor | None = None,
        encoder_hidden_states: OneOrMore = None,
        encoder_attention_mask: OneOrMore = None,
        past_key_values: Past = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        is_decoder: bool = False,
        *,
        encoder_embeds: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        mode: str | None = None,
    ) -> BertModelOutput | tuple[Any, ...]:
        """Run embeddings, layers and pooler.

        Args:
            input_ids: text, (B, L) int64.
            attention_mask: 0/1 over cached and given positions, (B, S), or per position, (B, T, S).
            position_ids: (B, L) or (1, L), instead of counting from the cached text on.
            head_mask: (H,) or (layers, H); multiplies self- and cross-attention probabilities.
            query_embeds: query tokens of the Q-Former, (B, Q, D); they stand before the text.
            encoder_hidden_states, encoder_attention_mask: image tokens, (B, N, encoder_width), and their 0/1
                mask, (B, N); or a list of each, at which the layers look in turn.
            past_key_values: the cache of an earlier call; its positions precede the given ones.
            output_attentions: return the probabilities, of cross-attention None where it did not run.
            is_decoder: text sees queries and earlier text only, queries see queries only.
            encoder_embeds: hidden states (B, T, D) for the layers, as of an earlier pass with mode "text".
            inputs_embeds: word embeddings (B, L, D) in place of `input_ids`.
            token_type_ids: (B, L) int64; types are added only if they are given.
            mode: which layers of BLIP's BERT run, and whether they look at the image.
        """
        past = self.cache(past_key_values)
        cached = past[0][0].shape[2] if past else 0
        embedded = encoder_embeds
        if embedded is None:
            text = cached - past.query_length, inputs_embeds, token_type_ids
            embedded = self.embeddings(input_ids, position_ids, query_embeds, *text)
        batch, length, _ = embedded.shape
        queries = 0 if query_embeds is None else query_embeds.shape[1]
        own: dict[str, Any] = {} if mode is None else {"mode": mode}
        if queries > 0:
            own["query_length"] = queries
        if attention_mask is None and is_decoder:
            attention_mask = embedded.new_ones(batch, cached + length)
        if attention_mask is not None:
            attention_mask = self.get_extended_attention_mask(
                attention_mask, (batch, length - queries), embedded.device, is_decoder, queries > 0
            )
        if head_mask is not None:
            layers, shape = self.config.num_hidden_layers, tuple(head_mask.shape)
            if shape[:-1] not in ((), (layers,)):
                raise ValueError(f"head_mask must be (heads,) or ({layers}, heads), not shape {shape}")
            head_mask = head_mask.expand(layers, -1)[:, None, :, None, None]
        if encoder_attention_mask is not None:
            masks = listed(encoder_attention_mask)
            encoder_attention_mask = [None if mask is None else additive_mask(mask) for mask in masks]
        image = encoder_hidden_states, encoder_attention_mask
        wanted = use_cache, output_attentions, output_hidden_states
        encoded = self.encoder(embedded, attention_mask, head_mask, *image, past, *wanted, **own)
        if use_cache:
            encoded["past_key_values"] = KeyValueCache(encoded.past_key_values, past.query_length + queries)
        pooled = None if self.pooler is None else self.pooler(encoded.last_hidden_state)
        output = BertModelOutput(pooler_output=pooled, **encoded)
        return output.to_tuple() if return_dict is False else output
