"""The losses of image-text pretraining, as functions of tensors: contrast (ITC), matching (ITM), their mean
over several processes. They know no model: BLIP-2's Q-Former and BLIP's two towers use the same.

Which pairs belong together is said by a boolean matrix `matches` (B, W): row i is this process's pair i,
column j is pair j of all processes. A match is part of the contrastive target and is never a negative.

Shapes: B pairs on this process, W pairs over all processes (W = B with one), N image tokens of width V, L
text tokens, Q image features of size E.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from xraygpt.common.dist_utils import all_reduce_mean

LABEL_SMOOTHING = 0.1
"""Share of the contrastive target spread over all pairs."""

Gather = Callable[[Tensor], Tensor]
"""Rows of all processes, (B, ...) -> (W, ...)."""


# Which pairs belong together


def id_keys(ids: Sequence[str] | Tensor) -> Tensor:
    """(B, 1) int64 keys that are equal exactly where the ids are, the same on every process."""
    if isinstance(ids, Tensor):
        return ids.view(-1, 1)
    digests = [hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in ids]
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests]).view(-1, 1)


def same_pairs(row_keys: Tensor, all_keys: Tensor) -> Tensor:
    """(B, K) and (W, K) keys -> (B, W) bool: which pairs have equal keys."""
    return (row_keys[:, None] == all_keys[None]).all(-1)


def own_pairs(batch: int, rank: int, world_size: int, device: torch.device) -> Tensor:
    """(B, W) bool: which column is the row's own pair, for process `rank`."""
    rows = torch.arange(batch, device=device) + rank * batch
    return rows[:, None] == torch.arange(batch * world_size, device=device)[None]


# Contrast


class Similarities(NamedTuple):
    """Scaled similarities of this process's pairs with those of all processes, each (B, W)."""

    image_to_text: Tensor
    text_to_image: Tensor


def best_cosines(image_feats: Tensor, text_feats: Tensor) -> Tensor:
    """Unit vectors (I, Q, E) of images and (T, E) of texts -> cosines (I, T), float32 whatever autocast says.

    Of an image's Q features the one most similar to the text counts. Half precision has too few numbers
    between the cosines of like reports.
    """
    with torch.autocast(image_feats.device.type, enabled=False):
        return torch.einsum("iqe,te->itq", image_feats.float(), text_feats.float()).amax(-1)


def pair_similarities(
    image_feats: Tensor, text_feat: Tensor, temperature: Tensor, gather: Gather
) -> Similarities:
    """Unit vectors (B, Q, E) of images and (B, E) of texts -> `best_cosines` over `temperature`."""
    all_images, all_texts = gather(image_feats), gather(text_feat)  # (W, Q, E), (W, E)
    return Similarities(
        best_cosines(image_feats, all_texts) / temperature,
        best_cosines(all_images, text_feat).T / temperature,
    )


def shared_targets(matches: Tensor, smoothing: float = LABEL_SMOOTHING) -> Tensor:
    """Target distributions (B, W): the matches of a row in equal parts, smoothed over all pairs."""
    targets = matches.float()
    targets = targets / targets.sum(1, keepdim=True)
    return (1 - smoothing) * targets + smoothing / targets.shape[1]


def contrastive_loss(similarities: Similarities, targets: Tensor) -> Tensor:
    """Mean cross-entropy of both directions against soft targets (B, W)."""
    image_to_text, text_to_image = (
        -(F.log_softmax(scores, dim=1) * targets).sum(1).mean() for scores in similarities
    )
    return (image_to_text + text_to_image) / 2


# Matching


class Negatives(NamedTuple):
    """For each row a column that does not belong to it."""

    columns: Tensor
    """(B,) int64; arbitrary where none was found."""
    found: Tensor
    """(B,) bool; False where every other pair is forbidden: such a row has no negative."""


@torch.no_grad()
def draw_hard_negatives(similarity: Tensor, forbidden: Tensor) -> Negatives:
    """For each row of `similarity` (B, W) draw a column that is not `forbidden` (B, W).

    The more similar, the likelier (softmax of the row).
    """
    found = ~forbidden.all(dim=1)
    # A loss that is not finite is reported later, with the names of the images; no drawing from nan here.
    scores = similarity.float().nan_to_num().masked_fill(forbidden & found[:, None], -torch.inf)
    return Negatives(torch.multinomial(scores.softmax(dim=1), 1).squeeze(1), found)


class Pairs(NamedTuple):
    """Images and texts that belong together, row by row."""

    images: Tensor
    """(B, N, V)"""
    text_ids: Tensor
    """(B, L) int64"""
    text_mask: Tensor
    """(B, L)"""


class MatchingBatch(NamedTuple):
    """Pairs to tell apart: B true ones, B with a wrong image, B with a wrong text, in this order."""

    pairs: Pairs
    """3B of them."""
    labels: Tensor
    """(3B,) int64: 1 for a true pair, 0 for a wrong one."""
    counted: Tensor
    """(3B,) bool: False for rows that only fill up the batch, having no negative."""


def matching_batch(
    own: Pairs, everyone: Pairs, wrong_images: Negatives, wrong_texts: Negatives
) -> MatchingBatch:
    """Put true pairs and negatives together.

    Args:
        own: of this process, B.
        everyone: of all processes, W.
        wrong_images: which of `everyone` gives the wrong image to each of the own texts.
        wrong_texts: which of `everyone` gives the wrong text to each of the own images.
    """
    image, text = wrong_images.columns, wrong_texts.columns
    pairs = Pairs(
        torch.cat([own.images, everyone.images[image], own.images]),
        torch.cat([own.text_ids, own.text_ids, everyone.text_ids[text]]),
        torch.cat([own.text_mask, own.text_mask, everyone.text_mask[text]]),
    )
    true = torch.ones_like(wrong_images.found)
    return MatchingBatch(
        pairs,
        labels=torch.cat([true, ~true, ~true]).long(),
        counted=torch.cat([true, wrong_images.found, wrong_texts.found]),
    )


def matching_loss(logits: Tensor, batch: MatchingBatch) -> tuple[Tensor, Tensor]:
    """Logits (3B, 2) -> summed cross-entropy of the rows that count, and their number, for `global_mean`."""
    losses = F.cross_entropy(logits.float(), batch.labels, reduction="none")
    return (losses * batch.counted).sum(), batch.counted.sum()


# Several processes


def global_mean(total: Tensor, count: Tensor, world_size: int) -> Tensor:
    """This process's part of the mean over all processes, from its sum and its number of terms.

    The mean of the parts over the processes, which is what DistributedDataParallel makes of their gradients,
    is the mean over all terms of all processes, however these are spread.
    """
    number = count.detach().float()
    return total / (all_reduce_mean(number) if world_size > 1 else number).clamp(min=1e-6)
