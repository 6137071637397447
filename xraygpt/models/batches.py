"""Whether a batch holds what a model is trained on."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from xraygpt.common.errors import DataError


def source_of(samples: Mapping[str, Any]) -> str:
    """The data set of a batch, in words."""
    return f"the data set '{samples['source']}'" if "source" in samples else "the data set"


def images_of(samples: Mapping[str, Any]) -> Tensor:
    """The images of a batch, (B, 3, H, W).

    Raises:
        DataError: it has none.
    """
    if "image" not in samples:
        key = f"datasets.{samples.get('source', '<name>')}.data_type"
        raise DataError(
            f"this model needs images, and {source_of(samples)} gives none: set {key} to images (text is for "
            "the model causal_lm), or leave the data set out"
        )
    image: Tensor = samples["image"]
    return image


def captions_of(samples: Mapping[str, Any]) -> list[str]:
    """The reports of a batch, B texts.

    Raises:
        DataError: it has none.
    """
    if "caption" not in samples:
        raise DataError(f'this needs reports, and {source_of(samples)} gives none (key "caption")')
    return list(samples["caption"])


def labels_of(samples: Mapping[str, Any], num_labels: int) -> Tensor:
    """The labels of a batch, (B, K) float32, where K is `num_labels`.

    Raises:
        DataError: it has none, or of another number.
    """
    if "labels" not in samples:
        raise DataError(
            f"this model needs labels of findings, and {source_of(samples)} gives none: leave it out of "
            "datasets; phantom has them"
        )
    labels: Tensor = samples["labels"]
    if labels.shape[1:] != (num_labels,):
        raise DataError(
            f"{source_of(samples)} gives {tuple(labels.shape)[-1]} labels for each image, and the model has "
            f"{num_labels}: set model.num_labels to {tuple(labels.shape)[-1]}"
        )
    return labels.float()
