"""The Q-Former of BLIP-2 (Li et al., 2023): a BERT whose learnt query tokens look at the image.

Queries and text share self-attention; every `cross_attention_freq`-th layer lets the queries, and only
them, attend to the image; queries and text have separate feed-forward parts. With `text=False` the text
half (word and position embeddings, text feed-forward parts) is not built.

Shapes: B samples, Q query tokens, L text tokens, T = Q + L positions, N image tokens, D hidden size.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.models.bert.modeling_bert import BertIntermediate as BertIntermediate
from transformers.models.bert.modeling_bert import BertLMPredictionHead as BertLMPredictionHead
from transformers.models.bert.modeling_bert import BertOnlyMLMHead as BertOnlyMLMHead
from transformers.models.bert.modeling_bert import BertOutput as BertOutput
from transformers.models.bert.modeling_bert import BertPooler as BertPooler
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform as BertPredictionHeadTransform
from transformers.models.bert.modeling_bert import BertSelfOutput as BertSelfOutput

from xraygpt.models.bert import AttentionLayer, BertBackbone, BertConfig, LayerStack
from xraygpt.models.bert import BertAttention as BertAttention
from xraygpt.models.bert import BertPreTrainedModel as BertPreTrainedModel
from xraygpt.models.bert import BertSelfAttention as BertSelfAttention
from xraygpt.models.bert import KeyValueCache as KeyValueCache
from xraygpt.models.bert import TextEmbeddings as BertEmbeddings
from xraygpt.models.bert_lm import CausalLM, PredictionModel


@dataclass
class QformerConfig(BertConfig):
    """Sizes of the Q-Former; the defaults are BLIP-2's (BERT-base, 32 queries, image every 2nd layer)."""

    cross_attention_freq: int = 2
    """Every how many layers the queries attend to the image, starting with the first."""
    query_length: int = 32
    """Number of query tokens."""


class BertLayer(AttentionLayer):
    """A layer in which the queries, and only they, look at the image and have their own feed-forward part."""

    def __init__(self, config: QformerConfig, layer_num: int, text: bool = True) -> None:
        looks = config.add_cross_attention and layer_num % config.cross_attention_freq == 0
        super().__init__(config, looks, text)
        self.intermediate_query = BertIntermediate(config)
        self.output_query = BertOutput(config)

    def feed_forward_chunk_query(self, attention_output: Tensor) -> Tensor:
        return self.output_query(self.intermediate_query(attention_output), attention_output)


class BertEncoder(LayerStack):
    """The stack of layers."""

    def __init__(self, config: QformerConfig, text: bool = True) -> None:
        layers = (BertLayer(config, i, text) for i in range(config.num_hidden_layers))
        super().__init__(layers, config.gradient_checkpointing)


class BertModel(BertBackbone):
    """Embeddings, layers and optionally a pooler; see `BertBackbone.forward`."""

    def __init__(self, config: QformerConfig, add_pooling_layer: bool = False, text: bool = True) -> None:
        super().__init__(config, BertEmbeddings(config, text), BertEncoder(config, text), add_pooling_layer)


class QueryModel(BertPreTrainedModel):
    """The query half alone, under the same key prefix `bert` as in the models with a prediction head."""

    def __init__(self, config: QformerConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, text=False)


class BertLMHeadModel(CausalLM):
    """The Q-Former as a left-to-right language model of the text, given the queries."""

    backbone = BertModel

    def image_cache(self, **queries: Any) -> KeyValueCache:
        """The cache of the queries, having looked at the image."""
        return self.bert(**queries, use_cache=True).past_key_values


class BertForMaskedLM(PredictionModel):
    """The Q-Former predicting masked words from both sides, with or without queries."""

    backbone = BertModel
