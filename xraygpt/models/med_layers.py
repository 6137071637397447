"""Layers of BLIP's BERT ("MED", mixture of encoder and decoder): embeddings, a layer, the stack.

One set of weights serves as text encoder (`mode` "text": no image), as image-grounded encoder
("multimodal": every layer's cross-attention looks at the image) and, with a causal mask, as decoder.
With `fusion_layer` (ALBEF) only the layers from that one on have cross-attention: "text" runs the layers
below it, "fusion" those from it on.

Shapes: B sequences, T text tokens, S cached and given tokens, N image tokens, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from xraygpt.models.bert_attention import BertAttention, KeyValue
from xraygpt.models.bert_blocks import BertIntermediate, BertOutput
from xraygpt.models.bert_config import BertConfig
from xraygpt.models.bert_embeddings import TextEmbeddings
from xraygpt.models.bert_encoder import EncoderResult, KeyValueCache, LayerResult, LayerStack

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
