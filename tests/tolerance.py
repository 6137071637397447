"""How far two orders of the same arithmetic may lie apart, on any processor.

Kernels differ between processors in the order in which they add, and in whether they fuse a multiplication
with an addition. What such a reordering changes is a matter of how large the added terms are; how large
their sum is, which may be next to nothing, has no part in it.
"""

from __future__ import annotations

import math

import torch


def rounding(largest_term: float, terms: int = 1, dtype: torch.dtype = torch.float32) -> float:
    """Return an absolute tolerance for a number that is made of `terms` terms, each rounded to `dtype`.

    A rounding is off by at most eps / 2 of its term, up or down, so that the errors of many grow as the root
    of their number. Two results are compared, at four standard deviations: 2 * 4 * eps / 2.
    """
    return 4 * torch.finfo(dtype).eps * math.sqrt(terms) * largest_term
