"""The files of a run: its checkpoints by name, its metrics and its list of skipped images."""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from xraygpt.common.errors import MissingFileError
from xraygpt.common.logger import METRICS_FILE
from xraygpt.common.paths import resolve_path
from xraygpt.common.run_record import replacing, write_text, writing
from xraygpt.runners.trackers import TENSORBOARD_FOLDER, WANDB_FOLDER
from xraygpt.runners.train_state import SHARDS, TrainProgress, read_training
from xraygpt.tasks.timing import TRACE_FILE

AUTO = "auto"
LAST = "checkpoint_last.pth"
BEST = "checkpoint_best.pth"
EPOCH_PATTERN = re.compile(r"checkpoint_\d+\.pth")
SKIPPED_FILE = "skipped_images.txt"

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
    candidates = resumable(output_dir)
    if not candidates:
        logger.info("run.resume_ckpt_path is auto and %s holds no checkpoint", output_dir)
        return None

    def age(path: Path) -> tuple[int, int]:
        progress = read_training(path, mmap=True).progress
        return progress.completed_epochs, progress.global_step

    return max(candidates, key=age)


def resumable(output_dir: Path) -> list[Path]:
    """Return the checkpoints that a training with ``run.resume_ckpt_path=auto`` chooses from."""
    return [p for p in output_dir.glob("checkpoint_*.pth") if p.name == LAST or EPOCH_PATTERN.match(p.name)]


def truncate_metrics(path: Path, progress: TrainProgress) -> None:
    """Drop the lines that were written after the checkpoint; a half-written last line goes too."""
    if not path.is_file():
        return
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            later = record["step"] > progress.global_step
            scored = record["event"] == "valid" and record["epoch"] < progress.completed_epochs
        except (ValueError, KeyError, TypeError):
            continue
        if not later and (record["event"] in ("train", "interval") or scored):
            kept.append(line + "\n")
    write_text(path, "".join(kept))


def remove_unfinished_saves(output_dir: Path) -> None:
    """Delete what a process left that was killed while it wrote a checkpoint."""
    for leftover in output_dir.glob(".checkpoint_*.part"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
    remove_unused_shards(output_dir)


def remove_unused_shards(output_dir: Path) -> None:
    """Delete the folders of shards that no checkpoint names (any more)."""
    folders = set(output_dir.glob(f"checkpoint_*{SHARDS}"))
    if folders:
        used = {read_training(path, mmap=True).shards for path in resumable(output_dir)}
        for folder in folders:
            if folder.name not in used:
                shutil.rmtree(folder)


EVERYTHING = (
    *("checkpoint_*.pth", f"checkpoint_*{SHARDS}", METRICS_FILE, SKIPPED_FILE),
    *(TENSORBOARD_FOLDER, WANDB_FOLDER, TRACE_FILE),
)
"""Patterns of what a training leaves: checkpoints, metrics wherever they are kept, skipped images, trace."""


def set_aside(output_dir: Path, patterns: Sequence[str] = EVERYTHING) -> None:
    """Move what an earlier run in the same folder left into ``previous-<time>/``."""
    old = [path for pattern in patterns for path in sorted(output_dir.glob(pattern))]
    if not old:
        return
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
        if path.is_file():
            saved = read_training(path, mmap=True).progress
            if (saved.best_epoch, saved.best_metric) == (progress.best_epoch, progress.best_metric):
                return path
    return None


def take_over(checkpoint: Path, output_dir: Path, best: Path | None, progress: TrainProgress) -> None:
    """Have in `output_dir` what belongs to the training that goes on from `checkpoint`, and nothing else.

    Args:
        best: what `find_best` gave.
    """
    own = output_dir / BEST
    elsewhere = checkpoint.resolve().parent != output_dir.resolve()
    if elsewhere and best != own:
        set_aside(output_dir)
    elif best != own:
        set_aside(output_dir, [BEST])
    if best is not None and best != own:
        with best.open("rb") as source, replacing(own) as file:
            shutil.copyfileobj(source, file)
    truncate_metrics(output_dir / METRICS_FILE, progress)


class SkippedImages:
    """Writes each skipped image once to ``skipped_images.txt`` and warns about it.

    The count is of the images that this process has met; the file is the list of a whole run, to which all
    processes and, when it is resumed, all its parts add.
    """

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / SKIPPED_FILE
        self._met: set[str] = set()

    def __len__(self) -> int:
        return len(self._met)

    def add(self, messages: list[str]) -> None:
        """Take note of images, each given as one line of text that says which and why."""
        for message in (text.replace("\n", " ") for text in messages):
            if message in self._met:
                continue
            self._met.add(message)
            if message not in self._listed():
                with writing(self.path), self.path.open("a", encoding="utf-8") as file:
                    file.write(message + "\n")
            logger.warning("skipped corrupt image number %d: %s", len(self), message)

    def _listed(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
