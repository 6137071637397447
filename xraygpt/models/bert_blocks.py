"""BERT's remaining parts: feed-forward, pooler, prediction head, initialisation, losses.

Shapes: B sequences, T positions, D = hidden size, V vocabulary.
Parameter names are those of the published BERT, BLIP and BLIP-2 weights.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xraygpt.models.bert_config import ACTIVATIONS, BertConfig

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
