"""What a data set yields, what a model takes, and the way from one to the other.

Shapes: B samples in a batch, images of H x W pixels, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, Required, TypedDict

import torch
from torch import Tensor


class Sample(TypedDict, total=False):
    """One item of a data set."""

    image: Tensor
    """float32 (3, H, W), normalised; absent in a text-only data set."""
    features: Tensor
    """(N, D), what frozen parts of the model make of the image, in its place (`run.feature_cache`)."""
    caption: Required[str]
    """The report."""
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
