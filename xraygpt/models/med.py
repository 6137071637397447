"""BLIP's BERT, a mixture of encoder and decoder (Li et al., 2022; ALBEF, Li et al., 2021).

One set of weights serves as text encoder (`mode` "text": no image), as image-grounded encoder
("multimodal": every layer's cross-attention looks at the image) and, with a causal mask, as decoder.
With `fusion_layer` (ALBEF) only the layers from that one on have cross-attention: "text" runs the layers
below it, "fusion" those from it on. Names and numbers are those of LAVIS' `models/med.py`.

Shapes: B sequences, T text tokens, S cached and given tokens, N image tokens, D hidden size, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

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
        output_attentions: bool = False,
        mode: Mode = "multimodal",
    ) -> tuple[Tensor, Tensor | None, Tensor | None, KeyValue]:
        """Run the layer on `hidden_states` (B, T, D).

        `past_key_value` may hold what cross-attention took from the image, which then need not be given.

        Returns:
            Hidden states, maps of self- and cross-attention (B, H, T, keys) if asked for, and the keys and
            values of both.
        """
        past = past_key_value or ()
        states, own_map, key_value = self.attention(
            hidden_states,
            attention_mask,
            head_mask,
            past_key_value=past[:2] or None,
            output_attentions=output_attentions,
        )
        cross_map = None
        if self.has_cross_attention and mode != "text":
            if encoder_hidden_states is None and not past[2:]:
                raise ValueError(
                    f'mode {mode!r} needs encoder_hidden_states (the image); mode="text" runs without'
                )
            states, cross_map, looked_at = self.crossattention(
                states,
                head_mask=head_mask,
                encoder_hidden_states=encoder_hidden_states,
                encoder_attention_mask=encoder_attention_mask,
                past_key_value=past[2:] or None,
                output_attentions=output_attentions,
            )
            key_value = (*key_value, *looked_at)
        return self.feed_forward_chunk(states), own_map, cross_map, key_value

    def feed_forward_chunk(self, attention_output: Tensor) -> Tensor:
        return self.output(self.intermediate(attention_output), attention_output)


class BertEncoder(LayerStack):
    """The stack of layers, of which `mode` says which run and whether they look at the image."""

    def __init__(self, config: MedConfig) -> None:
        layers = (BertLayer(config, i) for i in range(config.num_hidden_layers))
        super().__init__(layers, config.gradient_checkpointing)
        self.first_fusion_layer = config.first_fusion_layer

    def layers_of(self, mode: str) -> range:
        """The layers that run in a mode."""
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {get_args(Mode)}, not {mode!r}")
        first = self.first_fusion_layer if mode == "fusion" else 0
        return range(first, self.first_fusion_layer if mode == "text" else len(self.layer))


class BertModel(BertBackbone):
    """Embeddings, layers and, unless it is left out, a pooler; see `BertBackbone.forward`.

    `encoder_hidden_states` and `encoder_attention_mask` may be lists, of several images that the layers look
    at in turn; they are unused in mode "text". A cache holds the image too, so that it need not be given
    again.
    """

    def __init__(self, config: MedConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config, BertEmbeddings(config), BertEncoder(config), add_pooling_layer)

    def embed(
        self,
        input_ids: Tensor | None,
        position_ids: Tensor | None,
        past_length: int,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_embeds: Tensor | None = None,
        mode: Mode = "multimodal",
    ) -> tuple[Tensor, dict[str, Any]]:
        """Embed the text.

        Args:
            token_type_ids: (B, T) int64; types are added only if they are given.
            inputs_embeds: word embeddings (B, T, D) in place of `input_ids`.
            encoder_embeds: hidden states (B, T, D) that enter the layers as they are, such as those of an
                earlier pass with mode "text".
            mode: which layers run, and whether they look at the image.
        """
        if encoder_embeds is None:
            encoder_embeds = self.embeddings(
                input_ids, token_type_ids, position_ids, inputs_embeds, past_length
            )
        return encoder_embeds, {"mode": mode}


class BertLMHeadModel(CausalLanguageModel):
    """The decoder: writes text from left to right, looking at the image."""

    config: MedConfig

    def __init__(self, config: MedConfig) -> None:
        super().__init__(config, BertModel(config, add_pooling_layer=False))

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        settings: SearchSettings,
        *,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
    ) -> SearchResult:
        """Write a text about each image (B, N, encoder_width), after the start tokens `input_ids` (B, T).

        Keys and values of the image are computed once and kept with the cache, which has no text at first.
        """
        no_text = encoder_hidden_states.new_empty(len(input_ids), 0, self.config.hidden_size)
        layers = []
        for layer in self.bert.encoder.layers():
            looked_at = (
                layer.crossattention.self.key_value(encoder_hidden_states)
                if layer.has_cross_attention
                else ()
            )
            layers.append((*layer.attention.self.key_value(no_text), *looked_at))

        def step(tokens: Tensor, cache: Any) -> tuple[Tensor, KeyValueCache]:
            mask = encoder_attention_mask
            if mask is not None:  # the beams of an image stand side by side
                mask = mask.repeat_interleave(len(tokens) // len(mask), dim=0)
            output = self(tokens, encoder_attention_mask=mask, past_key_values=cache)
            return output.logits[:, -1], output.past_key_values

        return search(step, input_ids, KeyValueCache(layers), settings)


class BertForMaskedLM(MaskedLanguageModel):
    """Predicts masked words from both sides, with the image or without."""

    config: MedConfig

    def __init__(self, config: MedConfig) -> None:
        super().__init__(config, BertModel(config, add_pooling_layer=False))
