"""Training data as one infinite stream, evaluation data as a finite one.

Both are map-style data sets whose items are whole batches. A training batch is a pure function of
(seed, step, rank): which data set it comes from, which samples, how they are augmented, which prompt it
gets. To resume at step N, N is all one needs, with any number of loading processes.

W processes with batches of b see, at step s, the slices of the batch that one process with batches of
W * b sees at step s.
"""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from xraygpt.common.errors import ConfigError, DataError, XrayGPTError
from xraygpt.common.logger import progress
from xraygpt.datasets.batch import Batch, Sample, collate
from xraygpt.datasets.datasets.base_dataset import ReportDataset
from xraygpt.datasets.datasets.images import SkippedImageError
from xraygpt.datasets.datasets.streamed import StreamedDataset
from xraygpt.datasets.seeding import drawn, generator, preserved, seed_cpu
from xraygpt.datasets.shard_stream import ShardStream

LengthsOf = Callable[[Sequence[str]], Sequence[int]]

_BLOCK = 4096  # steps whose data sets are drawn at once
WINDOW = 64
"""Batches, of all processes together, within which samples are moved to bring like lengths together."""
MEASURED = 1000  # reports whose lengths are asked for at once


class TrainStream(Dataset[Batch | Exception]):
    """Item s is this process's batch at step s, for any s >= 0.

    At each step one data set is drawn with probability proportional to its ratio and gives the whole
    batch, whose samples therefore have the same keys. A data set is read in random order, all of it before
    any sample comes again; a batch may reach over the end of such a pass.

    With `lengths_of` every `WINDOW` batches of such a pass have the samples that they would have anyway,
    arranged so that those of a batch, of all processes, have reports of like length and little is padded;
    which batch comes first is random. A batch that reaches over the end of a pass stays as it is.

    An error that is meant for people, or the operating system's, is returned instead of raised, since a
    loading process would wrap it in its own stack trace; `BatchLoader` raises it.

    Args:
        ratios: weight of each data set, positive.
        batch_size: samples for each process.
        prompts: one of them, drawn anew at each step, is the batch's prompt; empty for none.
        lengths_of: returns the lengths of reports, by which they are put together; None leaves them as they
            come. Tokens of the model that reads them, cut where it cuts them, are what is padded; characters
            tell these only roughly.
    """

    def __init__(
        self,
        datasets: Sequence[ReportDataset],
        ratios: Sequence[float],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        prompts: Sequence[str] = (),
        lengths_of: LengthsOf | None = None,
    ) -> None:
        if len(datasets) != len(ratios) or not datasets:
            raise ValueError(f"{len(datasets)} data sets and {len(ratios)} ratios; one each is needed")
        if min(ratios) <= 0:
            raise ValueError(f"ratios must be positive, not {list(ratios)}")
        self.datasets = list(datasets)
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.prompts = list(prompts)
        self._cumulative = np.cumsum(np.asarray(ratios, dtype=np.float64) / sum(ratios))
        # _counts[k] holds how often each data set was drawn before step k * _BLOCK.
        self._counts: list[np.ndarray] = [np.zeros(len(datasets), dtype=np.int64)]
        self._orders: dict[int, tuple[int, np.ndarray]] = {}
        self._lengths = [caption_lengths(data, lengths_of) for data in datasets] if lengths_of else []
        self._windows: dict[int, tuple[range, np.ndarray]] = {}

    def one_pass(self) -> int:
        """Return the number of steps in which all processes together read as many samples as there are."""
        return -(-sum(map(len, self.datasets)) // (self.batch_size * self.world_size))

    def __getitem__(self, step: int) -> Batch | Exception:
        which, turn = self._draw(step)
        skipped: list[str] = []
        try:
            with preserved():
                samples = [self._sample(which, place, skipped) for place in self._places(which, turn)]
        except (XrayGPTError, OSError) as error:
            return error
        batch = collate(samples, drawn(self.prompts, self.seed, "prompt", step))
        if skipped:
            batch["skipped"] = skipped
        return batch

    def _draw(self, step: int) -> tuple[int, int]:
        """Return the data set of `step` and how many earlier steps it has had."""
        if len(self.datasets) == 1:
            return 0, step
        block, offset = divmod(step, _BLOCK)
        while len(self._counts) <= block:
            drawn = np.bincount(self._choices(len(self._counts) - 1), minlength=len(self.datasets))
            self._counts.append(self._counts[-1] + drawn)
        choices = self._choices(block)
        which = int(choices[offset])
        return which, int(self._counts[block][which] + np.count_nonzero(choices[:offset] == which))

    def _choices(self, block: int) -> np.ndarray:
        uniform = generator(self.seed, "data set", block).random(_BLOCK)
        return np.minimum(np.searchsorted(self._cumulative, uniform, side="right"), len(self.datasets) - 1)

    def _places(self, which: int, turn: int) -> list[int]:
        """Return which samples, counted through all passes of a data set, this process's batch is made of."""
        size = self.world_size * self.batch_size
        if not self._lengths:
            places = np.arange(turn * size, (turn + 1) * size)
        else:
            window = window_of(turn, size, len(self.datasets[which]))
            cached = self._windows.get(which)
            if cached is None or cached[0] != window:
                cached = self._windows[which] = (window, self._grouped(which, window, size))
            places = cached[1][turn - window.start]
        first = self.rank * self.batch_size
        return [int(place) for place in places[first : first + self.batch_size]]

    def _grouped(self, which: int, window: range, size: int) -> np.ndarray:
        """Return the samples of the batches of a window, (batches, size), those of a batch of like length."""
        places = np.arange(window.start * size, window.stop * size)
        if len(window) > 1:
            turn, offsets = places[0] // len(self.datasets[which]), places % len(self.datasets[which])
            lengths = self._lengths[which][self._order(which, int(turn))[offsets]]
            places = places[np.argsort(lengths, kind="stable")]
        return generator(self.seed, "window", which, window.start).permutation(places.reshape(-1, size))

    def _sample(self, which: int, position: int, skipped: list[str]) -> Sample:
        dataset = self.datasets[which]
        turn, offset = divmod(position, len(dataset))
        index = int(self._order(which, turn)[offset])
        for attempt in range(len(dataset)):
            seed_cpu(self.seed, "sample", which, position)
            try:
                return dataset[(index + attempt) % len(dataset)]
            except SkippedImageError as error:
                skipped.append(str(error))
        raise DataError(f"every image of a data set is corrupt, the last one: {skipped[-1]}")

    def _order(self, which: int, turn: int) -> np.ndarray:
        """Return the order of the samples in pass number `turn` through a data set."""
        cached = self._orders.get(which)
        if cached is None or cached[0] != turn:
            order = generator(self.seed, "order", which, turn).permutation(len(self.datasets[which]))
            cached = self._orders[which] = (turn, order)
        return cached[1]


def train_stream(
    datasets: Sequence[ReportDataset],
    ratios: Sequence[float],
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    prompts: Sequence[str] = (),
    lengths_of: LengthsOf | None = None,
) -> TrainStream | ShardStream:
    """Return the stream over data sets (see `TrainStream`), a `ShardStream` if the one there is streamed.

    Raises:
        ConfigError: a data set that is streamed is one of several, or is to be put together by length.
    """
    streamed = next((data for data in datasets if isinstance(data, StreamedDataset)), None)
    if streamed is None:
        return TrainStream(datasets, ratios, batch_size, seed, rank, world_size, prompts, lengths_of)
    if len(datasets) > 1:
        raise ConfigError(
            f"datasets.{streamed.name} is streamed from shards and cannot be mixed with others: set those to "
            "null, or name its storage folder"
        )
    if lengths_of is not None:
        raise ConfigError(
            f"run.group_by_length: datasets.{streamed.name} is streamed from shards, whose lengths are not "
            "known before; set it to false"
        )
    return ShardStream(streamed, batch_size, seed, rank, world_size, prompts)


def caption_lengths(dataset: ReportDataset, lengths_of: LengthsOf) -> np.ndarray:
    """Return the lengths of all reports of a data set, (samples,)."""
    lengths: list[int] = []
    starts = range(0, len(dataset), MEASURED)
    for first in progress(starts, desc="lengths of the reports"):
        indices = range(first, min(first + MEASURED, len(dataset)))
        lengths += lengths_of([dataset.caption(index) for index in indices])
    return np.array(lengths)


def window_of(turn: int, size: int, samples: int) -> range:
    """Return the batches among which samples may change places with those of batch `turn`, itself included.

    They lie within one pass through the data set, so that every sample still comes once in a pass.

    Args:
        turn: number of the batch among those of its data set.
        size: samples in a batch, of all processes.
        samples: in the data set.
    """
    current = turn * size // samples
    if ((turn + 1) * size - 1) // samples != current:
        return range(turn, turn + 1)  # it reaches over the end of a pass
    first, end = -(-current * samples // size), (current + 1) * samples // size
    start = turn - (turn - first) % WINDOW
    return range(start, min(start + WINDOW, end))


class EvalStream(Dataset[Batch | Exception]):
    """Batches of a data set in its own order, each sample once; process r of W takes batches r, r + W, ...

    Batches have the same samples with any number of processes, so that whatever depends on a sample's batch
    mates (rounding, random numbers) does not depend on the processes. Corrupt images that may be skipped are
    left out, so that a batch may be smaller, or empty.

    Args:
        without: numbers of batches that are left out; the others are dealt to the processes.
    """

    def __init__(
        self,
        dataset: ReportDataset,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        prompt: str = "",
        without: Container[int] = (),
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.prompt = prompt
        self.total = -(-len(dataset) // batch_size)
        """Batches of all processes, those left out included."""
        kept = [number for number in range(self.total) if number not in without]
        self.numbers = kept[rank::world_size]
        """Batches of this process."""

    def leaving_out(self, numbers: Container[int]) -> EvalStream:
        """Return this stream without some batches; the others are dealt anew."""
        return EvalStream(
            self.dataset, self.batch_size, self.seed, self.rank, self.world_size, self.prompt, numbers
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> Batch | Exception:
        """Return batch `number` of the data set."""
        samples: list[Sample] = []
        skipped: list[str] = []
        try:
            with preserved():
                first = number * self.batch_size
                for index in range(first, min(first + self.batch_size, len(self.dataset))):
                    self._read(index, samples, skipped)
        except (XrayGPTError, OSError) as error:
            return error
        batch = collate(samples, self.prompt)
        batch["number"] = number
        if skipped:
            batch["skipped"] = skipped
        return batch

    def _read(self, index: int, samples: list[Sample], skipped: list[str]) -> None:
        seed_cpu(self.seed, "evaluation", index)
        try:
            samples.append(self.dataset[index])
        except SkippedImageError as error:
            skipped.append(str(error))


class BatchLoader:
    """Iterates over the batches of a stream.

    A `TrainStream` never ends, and its loading processes live as long as the iterator. An `EvalStream` is
    gone through once; batches whose samples were all skipped are left out.

    Args:
        first: step to begin at.
        num_workers: loading processes; the batches are the same with any number, but for a `ShardStream`,
            which has no more of them than shards.
        pin_memory: put tensors into page-locked memory, from which a GPU copies in the background.
        on_skipped: told about corrupt images that were left out.
    """

    def __init__(
        self,
        stream: TrainStream | ShardStream | EvalStream,
        first: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
        on_skipped: Callable[[list[str]], None] | None = None,
    ) -> None:
        self.stream = stream
        self.on_skipped = on_skipped
        self._passed_over = 0
        numbers: Iterable[int]
        if isinstance(stream, EvalStream):
            numbers = stream.numbers[first:]
            num_workers = min(num_workers, len(numbers))
        elif isinstance(stream, ShardStream):
            stream.announce(first)
            num_workers = min(num_workers, stream.most_workers)
            self._passed_over = first % max(num_workers, 1)  # so that each has the steps it always has
            numbers = _CountFrom(first - self._passed_over)
        else:
            numbers = _CountFrom(first)
        self._loader = DataLoader(
            stream,
            batch_size=None,
            sampler=numbers,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            worker_init_fn=_end_silently,
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
        for batch in itertools.islice(self._loader, self._passed_over, None):
            if isinstance(batch, Exception):
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


def _end_silently(worker: int) -> None:
    """Leave Ctrl-C to the training process, which ends this one by SIGTERM, maybe while it takes a batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.excepthook = lambda *_: None  # of the thread that hands over batches; errors are sent along with them
