"""Pieces of the first stage's losses: which pairs match, contrastive loss, hard negatives.

Shapes: B pairs on this process, W pairs over all processes.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LABEL_SMOOTHING = 0.1
"""Share of the contrastive target spread over all pairs."""


class Similarities(NamedTuple):
    """Scaled similarities of this process's pairs with those of all processes, each (B, W)."""

    image_to_text: Tensor
    text_to_image: Tensor


def same_pairs(row_keys: Tensor, all_keys: Tensor) -> Tensor:
    """(B, K) and (W, K) integer keys -> (B, W) bool: which pairs have equal keys."""
    return (row_keys[:, None] == all_keys[None]).all(-1)


def contrastive_loss(similarities: Similarities, matches: Tensor) -> Tensor:
    """Cross-entropy in both directions; the target is shared by the `matches` (B, W) of a row."""
    targets = matches.float()
    targets = targets / targets.sum(1, keepdim=True)
    targets = (1 - LABEL_SMOOTHING) * targets + LABEL_SMOOTHING / targets.shape[1]
    losses = [-(F.log_softmax(s.float(), dim=1) * targets).sum(1).mean() for s in similarities]
    return (losses[0] + losses[1]) / 2


@torch.no_grad()
def draw_hard_negatives(similarity: Tensor, matches: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of `similarity` (B, W) draw a column that is no match, likelier the more similar.

    Returns the columns (B,) and whether the row had any candidate at all (B,); rows without one (a batch
    of one, or of equal reports) get an arbitrary column that must not count.
    """
    found = ~matches.all(dim=1)
    # A loss that is not finite is reported later, with the names of the images; no drawing from nan here.
    scores = similarity.float().nan_to_num().masked_fill(matches & found[:, None], -torch.inf)
    return torch.multinomial(scores.softmax(dim=1), 1).squeeze(1), found


def id_keys(image_ids: Sequence[str] | Tensor) -> Tensor:
    """(B, 1) int64 keys that are equal exactly where the ids are, the same on every process."""
    if isinstance(image_ids, Tensor):
        return image_ids.view(-1, 1)
    digests = [hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in image_ids]
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests]).view(-1, 1)
