"""Bridges from the tokens of a vision encoder to those of a language model. Importing this registers them."""

from xraygpt.models.bridges.mlp import LinearBridge, MLPBridge
from xraygpt.models.bridges.qformer import QFormerBridge

__all__ = ["LinearBridge", "MLPBridge", "QFormerBridge"]
