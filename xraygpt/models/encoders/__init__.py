"""Vision encoders: images (B, 3, height, width) -> tokens (B, N, V). Importing this registers them."""

import xraygpt.models.eva_vit  # noqa: F401  # eva_clip_g
from xraygpt.models.encoders.hf_encoder import HFEncoder, MedClipEncoder
from xraygpt.models.encoders.trunk import TimmEncoder

__all__ = ["HFEncoder", "MedClipEncoder", "TimmEncoder"]
