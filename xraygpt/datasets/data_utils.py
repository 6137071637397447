"""The reference's names for moving a batch to the device it is used on."""

from __future__ import annotations

from xraygpt.datasets.batch import Batch, to_device


def move_to_cuda(sample: Batch) -> Batch:
    """Return `sample` with its tensors on the current GPU."""
    return to_device(sample, "cuda")


def prepare_sample(samples: Batch, cuda_enabled: bool = True) -> Batch:
    """Return `samples` on the current GPU if `cuda_enabled`, else as they are."""
    return move_to_cuda(samples) if cuda_enabled else samples
