"""Word and position embeddings of a text, shared by the Q-Former and by BLIP's BERT.

Shapes: B sequences, L text tokens, D = hidden size.
"""

import torch
from torch import Tensor, nn

from xraygpt.models.bert_config import BertConfig


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
