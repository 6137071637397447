"""Whether a training may go on from a checkpoint under the settings of now."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from xraygpt.common.errors import ConfigError
from xraygpt.runners.train_state import SavedTraining, TrainProgress

FIXED = ("optimizer", "weight_decay", "beta2", "lr_layer_decay", "best_metric")
"""Keys of the section ``run`` that are part of the state which is put back as it was: the optimizer's, and
the best score so far."""
WATCHED = (
    *("seed", "precision", "amp", "train_splits", "batch_size_train", "accum_grad_iters", "grad_clip"),
    *("max_epoch", "lr_sched", "init_lr", "min_lr", "warmup_lr", "warmup_steps", "lr_decay_rate"),
)
"""Keys that take effect at once, so that the training is no longer the one that was begun."""

logger = logging.getLogger(__name__)


def check_settings(saved: SavedTraining, progress: TrainProgress, run: Mapping[str, Any]) -> None:
    """Compare the settings of a checkpoint with those of now; warn about changes that take effect.

    Args:
        progress: of the training that is about to go on, before it takes over that of `saved`.
        run: its section ``run`` as plain values.

    Raises:
        ConfigError: a change would go unheeded, or would change what an epoch is; all of them are named.
    """
    before = saved.run
    problems = [
        f"run.{key} was {before[key]} in {saved.path} and is now {run[key]}; it cannot change within a "
        f"training: set it back, or start a new training from the weights (model.ckpt)"
        for key in FIXED
        if key in before and before[key] != run[key]
    ]
    if saved.progress.iters_per_epoch != progress.iters_per_epoch:
        problems.append(
            f"run.iters_per_epoch: an epoch had {saved.progress.iters_per_epoch} batches in {saved.path} and "
            f"has {progress.iters_per_epoch} now (null means one pass, which follows from the data, "
            f"run.batch_size_train and the number of processes); set run.iters_per_epoch to "
            f"{saved.progress.iters_per_epoch}, or the others back"
        )
    if saved.progress.world_size != progress.world_size:
        problems.append(
            f"{saved.path} is of a training in {saved.progress.world_size} process(es), and this is one in "
            f"{progress.world_size}; start as many as before (torchrun --nproc-per-node)"
        )
    if problems:
        raise ConfigError(problems)
    for key in WATCHED:
        if key in before and before[key] != run[key]:
            logger.warning("run.%s was %s in %s and is now %s", key, before[key], saved.path, run[key])
