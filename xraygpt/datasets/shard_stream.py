"""Training data that is read from shards in their own order, as webdataset streams them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence

import webdataset as wds
from torch.utils.data import Dataset
from webdataset.utils import pytorch_worker_info

from xraygpt.common.errors import ConfigError, XrayGPTError
from xraygpt.datasets.batch import Batch, Sample, collate
from xraygpt.datasets.datasets.images import SkippedImageError
from xraygpt.datasets.datasets.streamed import RawSample, StreamedDataset
from xraygpt.datasets.seeding import derive_seed, drawn, generator, preserved, seed_cpu

logger = logging.getLogger(__name__)


class ShardStream(Dataset[Batch | Exception]):
    """Item s is this process's batch at step s; loading process w of N has the steps w, w + N, ... in order.

    In each pass the shards are dealt anew to all loading processes of all training processes
    (`split_by_node`, `split_by_worker`), each of which draws from a shuffle buffer that is filled from its
    shards, so that a pass has each sample once. They wait for nothing, so where shards are not of one size
    or cannot be divided evenly, some are in a later pass than others; a batch may reach over the end of one.

    Which samples a batch has, and how they are augmented, is a function of (seed, step, number of
    processes, N) where it is known how many samples each shard has. To begin at step s then takes reading
    what each loading process has read of its present pass, without decoding it. Where that is not known, a
    stream that begins at step s > 0 begins with a pass of its own.

    Corrupt images that may be skipped are left out, so that a batch may be smaller; one of which nothing is
    left is passed over, and takes no step.

    Args:
        rank: number of this process, as in the environment or the process group, which `split_by_node` asks.
        batch_size: samples for each process.
        prompts: one of them, drawn anew at each step, is the batch's prompt; empty for none.

    Raises:
        ConfigError: there are fewer shards than processes.
    """

    def __init__(
        self,
        dataset: StreamedDataset,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        prompts: Sequence[str] = (),
    ) -> None:
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rank, self.world_size, self.prompts = rank, world_size, list(prompts)
        self.most_workers = len(dataset.urls) // world_size
        """Loading processes of which each gets a shard."""
        if not self.most_workers:
            raise ConfigError(
                f"datasets.{dataset.name}.build_info.shards: {len(dataset.urls)} shards cannot be divided "
                f"among {world_size} processes; start fewer, or write smaller shards (--shard-size)"
            )
        self._next: int | None = None
        self._samples: Iterator[RawSample] = iter(())

    def one_pass(self) -> int:
        """Return the number of steps in which all processes together read as many samples as there are.

        Raises:
            ConfigError: it is not known how many there are.
        """
        return -(-len(self.dataset) // (self.batch_size * self.world_size))

    def announce(self, first: int) -> None:
        """Log what it means to begin at a step."""
        name = self.dataset.name
        if first and self.dataset.sizes is None:
            logger.warning(
                "datasets.%s: no index beside the shards says how many samples they have, so the training "
                "goes on with a new pass: samples of the last one may come again before all others have",
                name,
            )
        elif first:
            logger.info("datasets.%s: what has been read of the present pass is read again", name)

    def __getitem__(self, step: int) -> Batch | Exception:
        *_, worker, workers = pytorch_worker_info()
        number, whose = divmod(step, workers)
        if whose != worker:
            raise ValueError(f"step {step} belongs to loading process {whose}, not {worker}")
        try:
            if number != self._next:
                self._samples = self._from(number)
            self._next = None  # to be opened again after an error
            with preserved():
                batch = self._batch(step)
            self._next = number + 1
        except (XrayGPTError, OSError) as error:
            return error
        return batch

    def _batch(self, step: int) -> Batch:
        samples: list[Sample] = []
        skipped: list[str] = []
        for place, raw in enumerate(itertools.islice(self._samples, self.batch_size)):
            seed_cpu(self.seed, "sample", self.rank, step, place)
            try:
                samples.append(self.dataset.sample(raw))
            except SkippedImageError as error:
                skipped.append(str(error))
        batch = collate(samples, drawn(self.prompts, self.seed, "prompt", step))
        if skipped:
            batch["skipped"] = skipped
        return batch

    def _from(self, number: int) -> Iterator[RawSample]:
        """Yield all samples that this loading process has from its batch `number` on."""
        begun, turn, over = 0, 0, 0
        if self.dataset.sizes is None:
            begun = number
        else:
            over = number * self.batch_size
            while over >= (size := sum(self.dataset.sizes[item["url"]] for item in self._dealt(begun, turn))):
                turn, over = turn + 1, over - size
        for each in itertools.count(turn):
            mixed = self._dealt(begun, each).compose(
                self.dataset.read,
                wds.shuffle(self.dataset.shuffle_buffer, seed=derive_seed(self.seed, "buffer", begun, each)),
            )
            yield from itertools.islice(mixed, over, None)
            over = 0

    def _dealt(self, begun: int, turn: int) -> wds.DataPipeline:
        """Return the shards that this loading process has in pass number `turn` since batch `begun`."""
        order = generator(self.seed, "shards", begun, turn).permutation(len(self.dataset.urls))
        shards = wds.SimpleShardList([self.dataset.urls[index] for index in order])
        return wds.DataPipeline(shards, wds.split_by_node, wds.split_by_worker)
