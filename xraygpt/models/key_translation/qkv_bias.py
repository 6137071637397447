"""EVA's attention has biases of queries and values; files often hold them joined, with zeros for the keys.

A bias of the keys adds the same number to all scores of a query, which softmax takes away again: whatever
stands in its place has no effect, and leaving it out is exact.
"""

from torch import Tensor

JOINED = "qkv.bias"
QUERY, VALUE = "q_bias", "v_bias"


def split_bias(joined: Tensor) -> dict[str, Tensor]:
    """``qkv.bias`` (3D,) -> ``q_bias`` and ``v_bias``, (D,) each."""
    query, _, value = joined.chunk(3)
    return {QUERY: query.clone(), VALUE: value.clone()}


def join_bias(query: Tensor, value: Tensor) -> Tensor:
    """``q_bias`` and ``v_bias`` (D,) -> ``qkv.bias`` (3D,), zero for the keys."""
    joined = query.new_zeros(3 * len(query))
    joined[: len(query)] = query
    joined[-len(value) :] = value
    return joined
