"""Vision encoders: images (B, 3, H, W) to tokens (B, N, V). Importing this registers them."""

from __future__ import annotations

from collections.abc import Mapping

from xraygpt.processors import Preprocessing


def preprocessing_for(model_config: Mapping[str, object]) -> Preprocessing | None:
    """Return what the vision encoder of a model expects of its images, without building it.

    Args:
        model_config: the section ``model`` of a configuration, as plain values.

    Returns:
        None for a model without a vision encoder, or one that takes images of any kind: image processors
        then keep their defaults.
    """
    return None
