"""BLIP's BERT, a mixture of encoder and decoder (Li et al., 2022; ALBEF, Li et al., 2021).

One set of weights serves as text encoder (`mode` "text": no image), as image-grounded encoder
("multimodal": every layer's cross-attention looks at the image) and, with a causal mask, as decoder.
With `fusion_layer` (ALBEF) only the layers from that one on have cross-attention: "text" runs the layers
below it, "fusion" those from it on. Names and numbers are those of LAVIS' `models/med.py`.

Shapes: B sequences, T text tokens, S cached and given tokens, N image tokens, D hidden size, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor
from transformers.models.bert.modeling_bert import BertIntermediate as BertIntermediate
from transformers.models.bert.modeling_bert import BertLMPredictionHead as BertLMPredictionHead
from transformers.models.bert.modeling_bert import BertOnlyMLMHead as BertOnlyMLMHead
from transformers.models.bert.modeling_bert import BertOutput as BertOutput
from transformers.models.bert.modeling_bert import BertPooler as BertPooler
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform as BertPredictionHeadTransform
from transformers.models.bert.modeling_bert import BertSelfOutput as BertSelfOutput

from xraygpt.models.bert import AttentionLayer, BertBackbone, BertConfig, LayerStack, Past, TextEmbeddings
from xraygpt.models.bert import BertAttention as BertAttention
from xraygpt.models.bert import BertPreTrainedModel as BertPreTrainedModel
from xraygpt.models.bert import BertSelfAttention as BertSelfAttention
from xraygpt.models.bert import KeyValueCache as KeyValueCache
from xraygpt.models.bert_lm import CausalLM, PredictionModel

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
        first, layers = self.fusion_layer, self.num_hidden_layers
        if first is not None and not 0 <= first <= layers:
            raise ValueError(f"fusion_layer {first} is not within 0 and num_hidden_layers {layers}")


class BertEmbeddings(TextEmbeddings):
    """The embeddings of a text, token types included if the configuration has them."""

    def __init__(self, config: MedConfig) -> None:
        super().__init__(config, token_types=config.type_vocab_size if config.add_type_embeddings else 0)


class BertLayer(AttentionLayer):
    """A layer in which all positions look at the image, except in mode "text"."""

    caches_image = True

    def __init__(self, config: MedConfig, layer_num: int) -> None:
        super().__init__(config, config.add_cross_attention and layer_num >= (config.fusion_layer or 0))

    def forward(self, hidden_states: Tensor, *arguments: Any, mode: Mode = "multimodal", **named: Any) -> Any:
        """As `AttentionLayer.forward`."""
        looking = 0 if mode == "text" else hidden_states.shape[1]
        return super().forward(hidden_states, *arguments, query_length=looking, **named)  # type: ignore[misc]


class BertEncoder(LayerStack):
    """The stack of layers, of which `mode` says which run and whether they look at the image."""

    def __init__(self, config: MedConfig) -> None:
        layers = [BertLayer(config, i) for i in range(config.num_hidden_layers)]
        super().__init__(layers, config.gradient_checkpointing)
        self.first_fusion_layer = len(layers) if config.fusion_layer is None else config.fusion_layer

    def layers_of(self, mode: str) -> range:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {get_args(Mode)}, not {mode!r}")
        first = self.first_fusion_layer if mode == "fusion" else 0
        return range(first, self.first_fusion_layer if mode == "text" else len(self.layer))


class BertModel(BertBackbone):
    """See `BertBackbone.forward`; a cache holds the image too, so that it need not be given again."""

    def __init__(self, config: MedConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config, BertEmbeddings(config), BertEncoder(config), add_pooling_layer)


class BertLMHeadModel(CausalLM):
    """The decoder: writes text from left to right, looking at the image."""

    backbone = BertModel

    def prepare_inputs_for_generation(  # type: ignore[override]  # the reference's, without query tokens
        self, input_ids: Tensor, past: Past = None, attention_mask: Tensor | None = None, **image: Any
    ) -> dict[str, Any]:
        """As in `CausalLM`."""
        return super().prepare_inputs_for_generation(input_ids, None, past, attention_mask, **image)

    def image_cache(
        self, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor | None = None
    ) -> KeyValueCache:
        """Keys and values of images (B, N, encoder_width), without text as yet."""
        no_text = encoder_hidden_states.new_empty(len(encoder_hidden_states), 0, self.config.hidden_size)
        layers = []
        for layer in self.bert.encoder.layers():
            layers.append(layer.attention.self.key_value(no_text))
            if layer.has_cross_attention:
                layers[-1] += layer.crossattention.self.key_value(encoder_hidden_states)
        return KeyValueCache(layers)


class BertForMaskedLM(PredictionModel):
    """Predicts masked words from both sides, with the image or without."""

    backbone = BertModel
