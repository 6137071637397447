"""Batches from a stream, loaded in this process or in others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from xraygpt.common.errors import XrayGPTError
from xraygpt.datasets.batch import Batch
from xraygpt.datasets.stream import EvalStream, TrainStream


class BatchLoader:
    """Iterates over the batches of a stream.

    A `TrainStream` never ends, and its loading processes live as long as the iterator. An `EvalStream` is
    gone through once; batches whose samples were all skipped are left out.

    Args:
        first: step to begin at.
        num_workers: loading processes; the batches are the same with any number.
        pin_memory: put tensors into page-locked memory, from which a GPU copies in the background.
        on_skipped: told about corrupt images that were left out.
    """

    def __init__(
        self,
        stream: TrainStream | EvalStream,
        first: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
        on_skipped: Callable[[list[str]], None] | None = None,
    ) -> None:
        self.stream = stream
        self.on_skipped = on_skipped
        numbers: Iterable[int]
        if isinstance(stream, EvalStream):
            numbers = stream.numbers[first:]
            num_workers = min(num_workers, len(numbers))
        else:
            numbers = _CountFrom(first)
        self._loader = DataLoader(
            stream,
            batch_size=None,
            sampler=numbers,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            pin_memory=pin_memory,
            # Its own generator: without one, DataLoader draws from torch's global one.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Number of batches of an `EvalStream`."""
        if not isinstance(self.stream, EvalStream):
            raise TypeError("a training stream has no end")
        return len(self.stream)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if isinstance(batch, XrayGPTError):
                raise batch
            skipped = batch.pop("skipped", None)
            if skipped and self.on_skipped is not None:
                self.on_skipped(skipped)
            if batch["image_id"]:
                yield batch


class _CountFrom:
    """``itertools.count(first)`` that can be gone through more than once."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first)


def _as_it_is(batch: Any) -> Any:
    return batch
