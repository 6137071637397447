"""Several reports of a batch in one row, each of which sees only itself: less of the batch is padding.

Shapes: R rows, T positions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from xraygpt.common.errors import ConfigError
from xraygpt.models.llm import embedding_table
from xraygpt.models.prompts import pad_rows


def share_rows(lengths: Sequence[int]) -> list[list[int]]:
    """Tell which samples share a row, none longer than the longest sample (first fit, the longest first)."""
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda sample: -lengths[sample]):
        place = next((row for row, free in enumerate(room) if free >= lengths[number]), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(max(lengths))
        rows[place].append(number)
        room[place] -= lengths[number]
    return rows


def separate(lengths: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
    """Return what keeps samples of these lengths in each row apart in a language model.

    ``attention_mask`` (R, 1, T, T) bool, which position sees which; ``position_ids`` (R, T) int64, from 0 on
    in each sample.
    """
    positions, _ = pad_rows([[at for length in row for at in range(length)] for row in lengths], 0)
    samples, _ = pad_rows([[n for n, length in enumerate(row) for _ in range(length)] for row in lengths], -1)
    samples = samples.to(device)
    same = samples[:, :, None] == samples[:, None]
    return {"attention_mask": same.tril().unsqueeze(1), "position_ids": positions.to(device)}


@torch.no_grad()
def check_packing(llm: PreTrainedModel) -> None:
    """Raise ConfigError unless a language model reads a sample behind another one as it does alone."""
    training, table = llm.training, embedding_table(llm).weight
    embeds = table[: 2 + 3].unsqueeze(0)
    llm.eval()
    try:
        together = llm(inputs_embeds=embeds, use_cache=False, **separate([[2, 3]], table.device)).logits
        alone = llm(inputs_embeds=embeds[:, 2:], use_cache=False).logits
        difference = (together[:, 2:] - alone).abs().max() / alone.abs().max()
        separated = bool(difference < torch.finfo(table.dtype).eps ** 0.5)
    except (TypeError, ValueError, RuntimeError):  # it takes no positions, or no mask of this form
        separated = False
    llm.train(training)
    if not separated:
        raise ConfigError(
            f"model.packing: the language model, a {llm.config.model_type}, does not keep the reports of a "
            "row apart; set it to false"
        )
