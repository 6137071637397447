"""The files of a run: its checkpoints by name, and its metrics, before a training starts or goes on."""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from pathlib import Path
from typing import Any

from xraygpt.common.checkpoint import load_checkpoint
from xraygpt.common.errors import MissingFileError
from xraygpt.common.logger import METRICS_FILE
from xraygpt.common.paths import resolve_path
from xraygpt.runners.skipped_images import SKIPPED_FILE
from xraygpt.runners.trackers import TENSORBOARD_FOLDER, WANDB_FOLDER
from xraygpt.runners.train_state import TrainProgress

AUTO = "auto"
LAST = "checkpoint_last.pth"
BEST = "checkpoint_best.pth"
EPOCH_PATTERN = re.compile(r"checkpoint_\d+\.pth")

logger = logging.getLogger(__name__)


def epoch_file(epoch: int) -> str:
    """Return the name of the checkpoint written after `epoch`."""
    return f"checkpoint_{epoch}.pth"


def find_resume_checkpoint(setting: str | None, output_dir: Path) -> Path | None:
    """Return the checkpoint that `run.resume_ckpt_path` asks for, None to start from the beginning.

    Raises:
        MissingFileError: it names a file that is not there.
    """
    if not setting:
        return None
    if setting != AUTO:
        path = Path(resolve_path(setting))
        if not path.is_file():
            raise MissingFileError(f"missing file: the checkpoint {path} (run.resume_ckpt_path)")
        return path
    candidates = [
        p for p in output_dir.glob("checkpoint_*.pth") if p.name == LAST or EPOCH_PATTERN.match(p.name)
    ]
    if not candidates:
        logger.info("run.resume_ckpt_path is auto and %s holds no checkpoint", output_dir)
        return None
    return max(candidates, key=_progress_of)


def _progress_of(path: Path) -> tuple[int, int]:
    progress = load_checkpoint(path).get("progress") or {}
    return progress.get("completed_epochs", 0), progress.get("global_step", 0)


def truncate_metrics(path: Path, progress: TrainProgress) -> None:
    """Drop the lines that were written after the checkpoint; a half-written last line goes too."""
    if not path.is_file():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        later = record["step"] > progress.global_step
        scored = record["event"] == "valid" and record["epoch"] < progress.completed_epochs
        if not later and (record["event"] == "train" or scored):
            kept.append(line + "\n")
    replacement = path.with_suffix(".tmp")
    replacement.write_text("".join(kept), encoding="utf-8")
    replacement.replace(path)


def remove_unfinished_saves(output_dir: Path) -> None:
    """Delete what a process left that was killed while it wrote a checkpoint."""
    for leftover in output_dir.glob(".checkpoint_*.part"):
        leftover.unlink()


def set_earlier_run_aside(output_dir: Path) -> None:
    """Move what an earlier run in the same folder left into ``previous-<time>/``.

    That is its checkpoints, its metrics wherever they are kept, and its list of skipped images.
    """
    patterns = ("checkpoint_*.pth", METRICS_FILE, SKIPPED_FILE, TENSORBOARD_FOLDER, WANDB_FOLDER)
    old = [path for pattern in patterns for path in sorted(output_dir.glob(pattern))]
    if old:
        _set_aside(output_dir, old)


def _set_aside(output_dir: Path, old: list[Path]) -> None:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(max(path.stat().st_mtime for path in old)))
    folder = output_dir / f"previous-{stamp}"
    folder.mkdir(exist_ok=True)
    for path in old:
        path.replace(folder / path.name)
    names = ", ".join(path.name for path in old)
    logger.warning("%s held files of an earlier run (%s); they are now in %s", output_dir, names, folder)


def find_best(checkpoint: Path, output_dir: Path, progress: TrainProgress) -> Path | None:
    """Return the best checkpoint of the training that goes on from `checkpoint`; None if it is not there.

    A file of that name may be of another run, or newer than `checkpoint`: its progress tells.
    """
    if progress.best_epoch is None:
        return None
    for path in (output_dir / BEST, checkpoint.parent / BEST):
        if path.is_file() and _best_of(path) == (progress.best_epoch, progress.best_metric):
            return path
    return None


def _best_of(path: Path) -> tuple[Any, Any]:
    progress = load_checkpoint(path).get("progress") or {}
    return progress.get("best_epoch"), progress.get("best_metric")


def take_over(checkpoint: Path, output_dir: Path, best: Path | None, progress: TrainProgress) -> None:
    """Have in `output_dir` what belongs to the training that goes on from `checkpoint`, and nothing else.

    Args:
        best: what `find_best` gave.
    """
    own = output_dir / BEST
    elsewhere = checkpoint.resolve().parent != output_dir.resolve()
    if elsewhere and best != own:
        set_earlier_run_aside(output_dir)
    elif own.is_file() and best != own:
        _set_aside(output_dir, [own])
    if best is not None and best != own:
        partial = output_dir / f".{BEST}.copy.part"
        shutil.copyfile(best, partial)
        partial.replace(own)
    truncate_metrics(output_dir / METRICS_FILE, progress)
