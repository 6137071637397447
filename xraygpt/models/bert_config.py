"""Sizes of a BERT, shared by the Q-Former and BLIP's text encoder."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

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
