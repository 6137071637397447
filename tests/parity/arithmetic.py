"""The reference's own order of operations, to tell rounding from a wrong number.

It writes attention out where this library uses a fused kernel, and generates text without a cache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

FUSED = F.scaled_dot_product_attention


def written_out_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **others: Any,
) -> Tensor:
    """As `F.scaled_dot_product_attention`, one operation after the other.

    The reference's ViT scales the queries (ours names its `scale`), its BERT divides the scores.
    """
    if dropout_p or is_causal or any(others.values()):
        whole: dict[str, Any] = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
        return FUSED(query, key, value, attn_mask=attn_mask, **whole, **others)
    if scale is None:
        scores = (query @ key.transpose(-1, -2)) / query.shape[-1] ** 0.5
    else:
        scores = (query * scale) @ key.transpose(-1, -2)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ value


@contextmanager
def reference_order() -> Iterator[None]:
    """Within it, nothing uses a fused kernel for attention, and runners leave the cache out."""
    with patch.object(F, "scaled_dot_product_attention", written_out_attention):
        yield


def in_reference_order() -> bool:
    """Tell whether the operations are to follow the reference's order."""
    return F.scaled_dot_product_attention is written_out_attention
