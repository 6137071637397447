"""What the Q-Former's and BLIP's models have in common: base classes and the results they return.

Shapes: B sequences, T given positions, S cached and given positions, L text tokens, D = hidden size,
V = vocabulary.
"""

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    MaskedLMOutput,
)

from xraygpt.models.bert_attention import additive_mask, causal_mask
from xraygpt.models.bert_blocks import BertOnlyMLMHead, BertPooler, init_bert_weights
from xraygpt.models.bert_config import BertConfig
from xraygpt.models.bert_embeddings import TextEmbeddings
from xraygpt.models.bert_encoder import EncoderResult, KeyValueCache, LayerStack


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
