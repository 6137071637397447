"""What a data set yields, what a model takes, and the way from one to the other.

Shapes: B samples in a batch, images of H x W pixels, K labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, Required, TypedDict

import torch
from torch import Tensor

from xraygpt.common.errors import DataError

Turn = dict[str, str]
"""What one side says in a conversation: ``role`` (system, user or assistant) and ``content``."""


class Sample(TypedDict, total=False):
    """One item of a data set."""

    image: Tensor
    """float32 (3, H, W), normalised; absent in a text-only data set."""
    features: Tensor
    """(N, D), what frozen parts of the model make of the image, in its place (`run.feature_cache`)."""
    caption: Required[str]
    """The report; of a conversation its last answer."""
    turns: list[Turn]
    """A whole conversation; only in data sets of these."""
    image_id: Required[str]
    """Names the sample in its data set."""
    source: Required[str]
    """Name of the data set."""
    study_id: str
    """The examination that the image was taken in; `image_id` where the data set does not say."""
    labels: Tensor
    """float32 (K,), 1 where a finding is present; only in labelled data sets."""
    image_text: str
    """Words that can stand in for the image when a language model is trained alone; only in phantoms."""


class Batch(TypedDict, total=False):
    """What a model is called with; all samples of a batch come from one data set."""

    image: Tensor
    """float32 (B, 3, H, W); absent in a text-only data set."""
    features: Tensor
    """(B, N, D), what frozen parts of the model make of the images, in their place (`run.feature_cache`)."""
    caption: Required[list[str]]
    turns: list[list[Turn]]
    """Whole conversations, whose last answers are the captions; only in data sets of these."""
    image_id: Required[list[str]]
    prompt: Required[str]
    """The instruction of the whole batch, template applied; "" for none."""
    study_id: list[str]
    """The examination of each image; images of one examination share its report."""
    labels: Tensor
    """float32 (B, K); only in labelled data sets."""
    image_text: list[str]
    """What stands in for the images in text-only training; only in phantoms."""
    source: NotRequired[str]
    """Name of the data set that all samples come from; absent in an empty batch."""
    number: NotRequired[int]
    """Which batch of its split, from 0; only in evaluation."""
    skipped: NotRequired[list[str]]
    """Corrupt images met while this batch was put together, in words; absent when there were none."""


def collate(samples: Sequence[Sample], prompt: str = "") -> Batch:
    """Put samples of one data set together."""
    batch: Batch = {
        "caption": [sample["caption"] for sample in samples],
        "image_id": [sample["image_id"] for sample in samples],
        "prompt": prompt,
    }
    if samples:
        batch["source"] = samples[0]["source"]
    if samples and "turns" in samples[0]:
        batch["turns"] = [sample["turns"] for sample in samples]
    if samples and "image" in samples[0]:
        batch["image"] = torch.stack([sample["image"] for sample in samples])
    if samples and "features" in samples[0]:
        batch["features"] = torch.stack([sample["features"] for sample in samples])
    if samples and "study_id" in samples[0]:
        batch["study_id"] = [sample["study_id"] for sample in samples]
    if samples and "labels" in samples[0]:
        batch["labels"] = torch.stack([sample["labels"] for sample in samples])
    if samples and "image_text" in samples[0]:
        batch["image_text"] = [sample["image_text"] for sample in samples]
    return batch


def repeated(batch: Batch, times: int) -> Batch:
    """Return a batch with each of its samples so many times."""
    longer: Any = batch.copy()
    for key, value in longer.items():
        if isinstance(value, Tensor):
            longer[key] = torch.cat([value] * times)
        elif isinstance(value, list):
            longer[key] = value * times
    return longer


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Return `batch` with its tensors on `device`; a copy from pinned memory runs in the background."""
    moved = batch.copy()
    if "image" in moved:
        moved["image"] = moved["image"].to(device, non_blocking=True)
    if "features" in moved:
        moved["features"] = moved["features"].to(device, non_blocking=True)
    if "labels" in moved:
        moved["labels"] = moved["labels"].to(device, non_blocking=True)
    return moved


def source_of(samples: Mapping[str, Any]) -> str:
    """Return the data set of a batch, in words."""
    return f"the data set '{samples['source']}'" if "source" in samples else "the data set"


def images_of(samples: Mapping[str, Any]) -> Tensor:
    """Return the images of a batch, (B, 3, H, W), or the features in their place, (B, N, D).

    Raises:
        DataError: it has neither.
    """
    if "features" in samples:
        features: Tensor = samples["features"]
        return features
    if "image" not in samples:
        key = f"datasets.{samples.get('source', '<name>')}.data_type"
        raise DataError(
            f"this model needs images, and {source_of(samples)} gives none: set {key} to images (text is for "
            "the model causal_lm), or leave the data set out"
        )
    image: Tensor = samples["image"]
    return image


def captions_of(samples: Mapping[str, Any]) -> list[str]:
    """Return the reports of a batch, B texts.

    Raises:
        DataError: it has none.
    """
    if "caption" not in samples:
        raise DataError(f'this needs reports, and {source_of(samples)} gives none (key "caption")')
    return list(samples["caption"])


def labels_of(samples: Mapping[str, Any], num_labels: int) -> Tensor:
    """Return the labels of a batch, (B, K) float32, where K is `num_labels`.

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


class DeviceCopies:
    """Puts batches on a device; on CUDA, while the device still computes with those before.

    A copy from pinned memory runs on a stream of its own, which waits for nothing; what is computed from then
    on waits for the copy. Elsewhere it is `to_device`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def to_device(self, batch: Batch) -> Batch:
        """Return `batch` with its tensors on the device."""
        if self._stream is None:
            return to_device(batch, self.device)
        with torch.cuda.stream(self._stream):
            moved = to_device(batch, self.device)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        for value in moved.values():
            if isinstance(value, Tensor):
                value.record_stream(current)  # else its memory could be given away before it is read
        return moved
