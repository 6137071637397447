"""Which data sets a run reads, and the stream it trains from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xraygpt.common.errors import DataError
from xraygpt.datasets.datasets.annotations import normalise_split
from xraygpt.datasets.stream import SizedDataset, TrainStream
from xraygpt.runners.run_config import RunConfig
from xraygpt.tasks.context import Splits


def datasets_of(datasets: Mapping[str, Splits], split: str) -> list[SizedDataset]:
    """Return the data sets that have a split.

    Raises:
        DataError: none has it.
    """
    wanted = normalise_split(split)
    found = [splits[wanted] for splits in datasets.values() if wanted in splits]
    if not found:
        there = "; ".join(f"{name} has {', '.join(splits)}" for name, splits in datasets.items())
        raise DataError(f"no data set has the split '{split}' ({there or 'no data set is configured'})")
    return found


def build_train_stream(
    run: RunConfig,
    datasets: Mapping[str, Splits],
    ratios: Mapping[str, float],
    *,
    prompts: Sequence[str],
    rank: int,
    world_size: int,
) -> TrainStream:
    """Return the stream over the training splits of all data sets, mixed by `ratios`.

    Raises:
        DataError: a training split is in no data set.
    """
    chosen: list[tuple[SizedDataset, float]] = []
    for split in run.train_splits:
        datasets_of(datasets, split)
        wanted = normalise_split(split)
        chosen += [(splits[wanted], ratios[name]) for name, splits in datasets.items() if wanted in splits]
    return TrainStream(
        [dataset for dataset, _ in chosen],
        [ratio for _, ratio in chosen],
        batch_size=run.batch_size_train,
        seed=run.seed,
        rank=rank,
        world_size=world_size,
        prompts=prompts,
    )
