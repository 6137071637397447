"""One more row in the language model's tables, for the token that stands for the image."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from xraygpt.models.llm import embedding_table


def vocabulary_tensors(llm: PreTrainedModel) -> list[str]:
    """Names of the tensors with a row for each token: embeddings and output layer."""
    head = llm.get_output_embeddings()
    tables = [embedding_table(llm).weight, *(() if head is None else head.parameters())]
    named = llm.named_parameters(remove_duplicate=False)
    return [name for name, parameter in named if any(parameter is table for table in tables)]


def with_rows(state: dict[str, Tensor], names: list[str], rows: int) -> dict[str, Tensor]:
    """`state` with the tensors `names` filled up to `rows` rows.

    A new row is the mean of the others. In the output layer this makes the token's score the mean of all
    scores, so that it is never the best one: greedy decoding stays what it was.
    """
    changed = dict(state)
    for name in names:
        table = state[name]
        if len(table) < rows:
            new = table.float().mean(0, keepdim=True).to(table.dtype)
            changed[name] = torch.cat([table, *[new] * (rows - len(table))])
    return changed
