"""Text processors other than BLIP's."""

from __future__ import annotations

from xraygpt.common.registry import registry
from xraygpt.processors.base_processor import BaseProcessor


@registry.register_processor("identity")
class IdentityProcessor(BaseProcessor):
    """Leaves the text as it is.

    This is what XrayGPT was trained with: its configuration names ``blip_caption``, but its data sets never
    apply it, so that reports keep their case, punctuation and length.
    """

    def __call__(self, item: str) -> str:
        return item
