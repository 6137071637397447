"""BLIP's BERT, a mixture of encoder and decoder (Li et al., 2022; ALBEF, Li et al., 2021).

One set of weights serves as text encoder (`mode` "text": no image), as image-grounded encoder
("multimodal": every layer's cross-attention looks at the image) and, with a causal mask, as decoder.
With `fusion_layer` (ALBEF) only the layers from that one on have cross-attention: "text" runs the layers
below it, "fusion" those from it on. Names and numbers are those of LAVIS' `models/med.py`.

Shapes: B sequences, T text tokens, S cached and given tokens, N image tokens, D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

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
    SoftLabels,
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
    "MedConfig",
]

Mode = Literal["text", "multimodal", "fusion"]


@dataclass
class MedConfig(BertConfig):
    """Sizes of BLIP's BERT; the defaults are those of bert-base-uncased beside a ViT-B."""

    encoder_width: int = 768
    """Width of the image tokens."""
    type_vocab_size: int = 2
    """Number of token types."""
    add_type_embeddings: bool = False
    """Whether there are token types."""
    fusion_layer: int | None = None
    """First layer with cross-attention (ALBEF); unset: every layer has it (BLIP)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fusion_layer is not None and not 0 <= self.fusion_layer <= self.num_hidden_layers:
            raise ValueError(
                f"fusion_layer {self.fusion_layer} is not within 0 and "
                f"num_hidden_layers {self.num_hidden_layers}"
            )

    @property
    def first_fusion_layer(self) -> int:
        """Where "text" ends and "fusion" begins; without `fusion_layer` after the last layer."""
        return self.num_hidden_layers if self.fusion_layer is None else self.fusion_layer


class BertEmbeddings(TextEmbeddings):
    """Word, position and, where they are given, token type embeddings; layer norm, dropout."""

    def __init__(self, config: MedConfig) -> None:
        super().__init__(config)
        self.token_type_embeddings: nn.Embedding | None = None
        if config.add_type_embeddings:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values_length: int = 0,
    ) -> Tensor:
        """`input_ids` (B, T), or in their place word embeddings `inputs_embeds` (B, T, D) -> (B, T, D)."""
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("the text needs input_ids, inputs_embeds or encoder_embeds")
            inputs_embeds = self.embed_words(input_ids)
        embeddings = inputs_embeds
        if token_type_ids is not None:
            if self.token_type_embeddings is None:
                raise ValueError("token_type_ids need a model built with add_type_embeddings=True")
            embeddings = embeddings + self.token_type_embeddings(token_type_ids)
        embeddings = self.add_positions(embeddings, position_ids, past_key_values_length)
        return self.dropout(self.LayerNorm(embeddings))


class BertLayer(nn.Module):
    """Self-attention, cross-attention if there is an image to look at, and the feed-forward part."""

    def __init__(self, config: MedConfig, layer_num: int) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.has_cross_attention = config.add_cross_attention and layer_num >= (config.fusion_layer or 0)
        if self.has_cross_attention:
            self.crossattention = BertAttention(config, is_cross_attention=True)
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
        cross_key_value: KeyValue | None = None,
        output_attentions: bool = False,
    ) -> LayerResult:
        """`hidden_states` (B, T, D); `cross_key_value` stands for `encoder_hidden_states` once computed."""
        attended = self.attention(
            hidden_states,
            attention_mask,
            head_mask,
            past_key_value=past_key_value,
            output_attentions=output_attentions,
        )
        states, cross_map = attended.context, None
        if self.has_cross_attention and (encoder_hidden_states is not None or cross_key_value is not None):
            crossed = self.crossattention(
                states,
                head_mask=head_mask,
                encoder_hidden_states=encoder_hidden_states,
                encoder_attention_mask=encoder_attention_mask,
                past_key_value=cross_key_value,
                output_attentions=output_attentions,
            )
            states, cross_map, cross_key_value = crossed
        states = self.feed_forward_chunk(states)
        return LayerResult(states, attended.probabilities, cross_map, attended.key_value, cross_key_value)

    def feed_forward_chunk(self, attention_output: Tensor) -> Tensor:
        return self.output(self.intermediate(attention_output), attention_output)


class BertEncoder(LayerStack):
    """The stack of layers, of which `mode` says which run and whether they look at the image."""

    def __init__(self, config: MedConfig) -> None:
        layers = (BertLayer(config, i) for i in range(config.num_hidden_layers))
        super().__init__(layers, config.gradient_checkpointing)
        self.first_fusion_layer = config.first_fusion_layer

    def layers_of(self, mode: Mode) -> range:
        """The layers that run in a mode."""
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {get_args(Mode)}, not {mode!r}")
        first = self.first_fusion_layer if mode == "fusion" else 0
        return range(first, self.first_fusion_layer if mode == "text" else len(self.layer))

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Sequence[Tensor | None] | None = None,
        encoder_hidden_states: Tensor | Sequence[Tensor] | None = None,
        encoder_attention_mask: Tensor | Sequence[Tensor | None] | None = None,
        past_key_values: tuple[KeyValue, ...] | None = None,
        output_attentions: bool = False,
        mode: Mode = "multimodal",
    ) -> EncoderResult:
        """`encoder_attention_mask` is additive; with several images layer by layer the next is looked at."""
        layers = self.layers_of(mode)
        images = [None] if mode == "text" else _listed(encoder_hidden_states)
        masks = _listed(encoder_attention_mask) * (len(images) if encoder_attention_mask is None else 1)
        cross = past_key_values.cross if isinstance(past_key_values, KeyValueCache) else ()
        arguments = []
        for turn, number in enumerate(layers):
            image = (number - self.first_fusion_layer) % len(images)
            arguments.append(
                (
                    attention_mask,
                    None if head_mask is None else head_mask[number],
                    images[image],
                    masks[image],
                    None if past_key_values is None else past_key_values[turn],
                    cross[turn] if cross else None,
                    output_attentions,
                )
            )
        return self.run(hidden_states, arguments, layers.start)


def _listed(value: Tensor | Sequence[Tensor | None] | None) -> list[Tensor | None]:
    return [value] if value is None or isinstance(value, torch.Tensor) else list(value)


EncoderStates = Tensor | Sequence[Tensor] | None
EncoderMask = Tensor | Sequence[Tensor | None] | None


class BertModel(BertBackbone):
    """Embeddings, layers and, unless it is left out, a pooler."""

    config: MedConfig
    encoder: BertEncoder

    def __init__(self, config: MedConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config, BertEmbeddings(config), BertEncoder(config), add_pooling_layer)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_embeds: Tensor | None = None,
        encoder_hidden_states: EncoderStates = None,
        encoder_attention_mask: EncoderMask = None,
        past_key_values: tuple[KeyValue, ...] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        is_decoder: bool = False,
        mode: Mode = "multimodal",
    ) -> BaseModelOutputWithPoolingAndCrossAttentions | tuple[Any, ...]:
        """Run the text through the layers of `mode`.

        Args:
            input_ids: text, (B, T) int64.
            attention_mask: 0/1 over cached + given tokens, (B, S), or per token, (B, T, S).
            token_type_ids: (B, T) int64; types are added only if they are given.
            position_ids: (B, T) or (1, T), instead of counting from the cached text on.
            head_mask: (H,) or (layers, H); multiplies self- and cross-attention probabilities.
            inputs_embeds: word embeddings (B, T, D) in place of `input_ids`.
            encoder_embeds: hidden states (B, T, D) that enter the layers as they are, such as those of an
                earlier pass with mode "text".
            encoder_hidden_states: image tokens, (B, N, encoder_width), or a list of them, which the layers
                take in turn; unused with mode "text".
            encoder_attention_mask: 0/1, (B, N), or a list of them.
            past_key_values: the cache of an earlier call; its tokens precede the given ones. It holds the
                image too, so that `encoder_hidden_states` need not be given again.
            use_cache: return the cache.
            is_decoder: each token sees itself and earlier ones only.

        `cross_attentions` of the result holds None for layers that did not look at an image.
        """
        past_length = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        embedded = encoder_embeds
        if embedded is None:
            embedded = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, past_length)
        self._check_image(mode, encoder_hidden_states, past_key_values)
        length = embedded.shape[1]
        result = self.encoder(
            embedded,
            self.self_attention_mask(attention_mask, embedded, length, past_length, is_decoder),
            per_layer_head_mask(head_mask, self.config.num_hidden_layers),
            encoder_hidden_states,
            _additive(encoder_attention_mask),
            past_key_values,
            bool(output_attentions),
            mode,
        )
        cache = KeyValueCache(result.key_values, cross=result.cross_key_values) if use_cache else None
        output = self.output(result, cache, bool(output_attentions), bool(output_hidden_states))
        return output.to_tuple() if return_dict is False else output

    def _check_image(self, mode: Mode, states: EncoderStates, cache: tuple[KeyValue, ...] | None) -> None:
        layers = [self.encoder.layers()[number] for number in self.encoder.layers_of(mode)]
        looking = mode != "text" and any(layer.has_cross_attention for layer in layers)
        if looking and states is None and not getattr(cache, "cross", ()):
            raise ValueError(
                f'mode {mode!r} needs encoder_hidden_states (the image); mode="text" runs without'
            )


def _additive(mask: EncoderMask) -> EncoderMask:
    if mask is None or isinstance(mask, Tensor):
        return None if mask is None else additive_mask(mask)
    return [None if one is None else additive_mask(one) for one in mask]


class BertLMHeadModel(PredictionModel):
    """The decoder: writes text from left to right, looking at the image."""

    config: MedConfig

    def __init__(self, config: MedConfig) -> None:
        super().__init__(config, BertModel(config, add_pooling_layer=False))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: EncoderStates = None,
        encoder_attention_mask: EncoderMask = None,
        labels: Tensor | None = None,
        past_key_values: tuple[KeyValue, ...] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        return_logits: bool = False,
        is_decoder: bool = True,
        reduction: Literal["mean", "none"] = "mean",
        mode: Mode = "multimodal",
        soft_labels: Tensor | None = None,
        alpha: float = 0.0,
    ) -> CausalLMOutputWithCrossAttentions | Tensor | tuple[Any, ...]:
        """Arguments as in `BertModel.forward`; `logits` are (B, T, V).

        With `labels` (B, T; -100 does not count) also the loss of predicting each next token, label
        smoothing 0.1; `reduction` "none" gives the sum per sequence. `soft_labels` (B, T - 1, V), a
        teacher's probabilities of the next token, replace the part `alpha` of it. `return_logits` returns
        just the logits of all but the last token.
        """
        output = self.bert(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache and labels is None,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            is_decoder=is_decoder,
            mode=mode,
        )
        logits = self.cls(output.last_hidden_state)
        if return_logits:
            return logits[:, :-1]
        loss = None
        if labels is not None:
            soft = None if soft_labels is None else SoftLabels(soft_labels, alpha)
            loss = causal_lm_loss(logits, labels, reduction=reduction, soft_labels=soft)
        result = causal_lm_output(output, logits, loss)
        return result.to_tuple() if return_dict is False else result

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past: tuple[KeyValue, ...] | None = None,
        attention_mask: Tensor | None = None,
        **model_kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of the next `forward` while generating: with a cache, the last token only."""
        return {
            "input_ids": input_ids if past is None else input_ids[:, -1:],
            "attention_mask": torch.ones_like(input_ids) if attention_mask is None else attention_mask,
            "past_key_values": past,
            "encoder_hidden_states": model_kwargs.get("encoder_hidden_states"),
            "encoder_attention_mask": model_kwargs.get("encoder_attention_mask"),
            "is_decoder": True,
        }

    def _reorder_cache(self, past: tuple[KeyValue, ...], beam_idx: Tensor) -> KeyValueCache:
        return (past if isinstance(past, KeyValueCache) else KeyValueCache(past)).reorder(beam_idx)

    def generate(
        self,
        input_ids: Tensor,
        settings: SearchSettings,
        *,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
    ) -> SearchResult:
        """Write a text about each image (B, N, encoder_width), after the start tokens `input_ids` (B, T).

        Keys and values of the image are computed once and kept with the cache.
        """

        def step(tokens: Tensor, state: Any) -> tuple[Tensor, _DecoderState]:
            output = self(
                tokens,
                encoder_hidden_states=state.image,
                encoder_attention_mask=state.image_mask,
                past_key_values=state.cache,
                use_cache=True,
            )
            after = _DecoderState(output.past_key_values, None, state.image_mask)
            return output.logits[:, -1], after

        state = _DecoderState(None, encoder_hidden_states, encoder_attention_mask)
        return search(step, input_ids, state, settings)


class _DecoderState(NamedTuple):
    """What a search carries along: the image before the first step, the cache after it."""

    cache: KeyValueCache | None
    image: Tensor | None
    image_mask: Tensor | None

    def reorder(self, rows: Tensor) -> "_DecoderState":
        return _DecoderState(
            None if self.cache is None else self.cache.reorder(rows),
            None if self.image is None else self.image.index_select(0, rows),
            None if self.image_mask is None else self.image_mask.index_select(0, rows),
        )


class BertForMaskedLM(PredictionModel):
    """Predicts masked words from both sides, with the image or without."""

    config: MedConfig

    def __init__(self, config: MedConfig) -> None:
        super().__init__(config, BertModel(config, add_pooling_layer=False))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_embeds: Tensor | None = None,
        encoder_hidden_states: EncoderStates = None,
        encoder_attention_mask: EncoderMask = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        is_decoder: bool = False,
        mode: Mode = "multimodal",
        soft_labels: Tensor | None = None,
        alpha: float = 0.0,
        return_logits: bool = False,
    ) -> MaskedLMOutput | Tensor | tuple[Any, ...]:
        """As `BertLMHeadModel.forward`, but labels, hard (B, T) and soft (B, T, V), are of the same
        positions, unsmoothed, and `return_logits` returns all positions."""
        output = self.bert(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            encoder_embeds=encoder_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            is_decoder=is_decoder,
            mode=mode,
        )
        logits = self.cls(output.last_hidden_state)
        if return_logits:
            return logits
        loss = None
        if labels is not None:
            soft = None if soft_labels is None else SoftLabels(soft_labels, alpha)
            loss = lm_loss(logits, labels, soft_labels=soft)
        result = masked_lm_output(output, logits, loss)
        return result.to_tuple() if return_dict is False else result
