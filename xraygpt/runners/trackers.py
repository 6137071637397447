"""Where the metrics of a run go beside `metrics.jsonl`: TensorBoard and Weights & Biases."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xraygpt.common.errors import ConfigError
from xraygpt.common.logger import Tracker
from xraygpt.common.paths import install_hint

TENSORBOARD_FOLDER = "tensorboard"
WANDB_FOLDER = "wandb"


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError if a package that `run.log_with` needs is not installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"run.log_with: {', '.join(missing)} is not installed; install it with "
            f"`{install_hint(','.join(missing))}`, or take it out of run.log_with"
        )


def open_trackers(
    names: Sequence[str], output_dir: Path, *, step: int, config: Mapping[str, Any]
) -> list[Tracker]:
    """Open what `run.log_with` names, below the run's folder; for process 0 only.

    Args:
        step: batches trained so far. What an interrupted run wrote beyond them no longer counts.
        config: the run's whole configuration, for trackers that keep it.

    Raises:
        ConfigError: the tracker refuses to start.
    """
    return [TRACKERS[name](output_dir, step, config) for name in names]


class TensorBoardTracker:
    """Writes event files into ``tensorboard/``; ``tensorboard --logdir output`` shows them."""

    def __init__(self, output_dir: Path, step: int, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # slow, and an extra

        self._writer = SummaryWriter(
            str(output_dir / TENSORBOARD_FOLDER), purge_step=step + 1 if step else None
        )

    def write(self, record: Mapping[str, Any]) -> None:
        """Log the numbers of one line of `metrics.jsonl`."""
        for name, value in scalars(record):
            self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()  # like `metrics.jsonl`, so that a killed run keeps what it wrote

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WandbTracker:
    """Logs to a run of Weights & Biases, in the project WANDB_PROJECT or "xraygpt".

    ``WANDB_MODE=offline`` keeps everything in ``wandb/`` below the run's folder. A resumed run continues
    under its id.
    """

    def __init__(self, output_dir: Path, step: int, config: Mapping[str, Any]) -> None:
        import wandb  # an extra

        folder = output_dir / WANDB_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        id_file = folder / "run_id.txt"
        if not id_file.is_file():
            id_file.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "xraygpt"),
                name=output_dir.resolve().name,
                id=id_file.read_text(encoding="utf-8"),
                resume="allow",
                dir=str(output_dir),
                config=dict(config),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except (wandb.errors.Error, OSError) as error:
            raise ConfigError(
                f"run.log_with: wandb cannot start ({error}); log in with `wandb login`, or set "
                "WANDB_MODE=offline"
            ) from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Log the numbers of one line of `metrics.jsonl`."""
        self._run.log(dict(scalars(record)), step=record["step"])

    def close(self) -> None:
        """Send, or write, what is left."""
        self._run.finish()


TRACKERS: dict[str, type[TensorBoardTracker] | type[WandbTracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
}


def scalars(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield name and value of each number in a line of `metrics.jsonl`.

    Names are grouped by what they are of: ``train/loss``, ``valid/val/rouge_l``; nested metrics add a level.
    """
    if not prefix:
        prefix = "/".join(str(record[key]) for key in ("event", "split") if key in record)
        record = {key: value for key, value in record.items() if key not in ("event", "split", "step")}
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}/{key}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}/{key}", value
