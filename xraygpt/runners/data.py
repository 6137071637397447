"""Which data sets a run reads, and the stream it trains from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from xraygpt.common.errors import DataError
from xraygpt.datasets.datasets.annotations import normalise_split
from xraygpt.datasets.stream import SizedDataset, TrainStream
from xraygpt.models.base_model import BaseModel
from xraygpt.runners.run_config import RunConfig
from xraygpt.tasks.context import Splits

MAX_COUNTED = 20_000
"""Reports of a split that are looked at for their length; of a larger one, as many at equal distances."""

logger = logging.getLogger(__name__)


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


def log_cut_captions(model: BaseModel, datasets: Mapping[str, Splits], splits: Sequence[str]) -> None:
    """Log, for each data set and split, how many reports are longer than ``max_txt_len`` and are cut."""
    wanted = dict.fromkeys(map(normalise_split, splits))
    for name, parts in datasets.items():
        for split in wanted:
            if split not in parts:
                continue
            data = parts[split]
            counted = range(len(data))[:: -(-len(data) // MAX_COUNTED)]
            cut = model.cut_captions([data.caption(index) for index in counted])
            if cut:
                logger.warning(
                    "data set %s, split %s: %d of %d reports%s are longer than model.max_txt_len and are cut",
                    name,
                    split,
                    cut,
                    len(counted),
                    f" looked at ({len(data)} in all)" if len(counted) < len(data) else "",
                )
