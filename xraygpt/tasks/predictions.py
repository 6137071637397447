"""The files of a generation: its reports, how they were made, and a journal to resume from while it runs.

The reports are in ``predictions_<split>.jsonl``, beside them ``generation_<split>.json``. The folder of a
journal holds ``settings.json``, all that the reports are a function of, and ``part-<process>.jsonl`` from
each process, a line for each finished batch. Half a line, from a process that was killed while it wrote,
counts as not written.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xraygpt.common.dist_utils import barrier, is_main_process
from xraygpt.common.errors import ConfigError
from xraygpt.common.run_record import write_json, write_text, writing
from xraygpt.datasets.batch import Batch
from xraygpt.models.generation import GeneratedReport

SETTINGS_FILE = "settings.json"
DIGITS = 4
"""Decimals of a log-probability; those behind them are rounding of float32 and of the hardware."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FinishedBatch:
    """The rows of one batch of a data set."""

    number: int
    seconds: float
    """Wall time, loading the images included."""
    rows: list[dict[str, Any]]


class GenerationJournal:
    """The journal of one data set of one split; all processes open it together.

    Args:
        folder: of this journal alone. What is in it is continued if it was written under the same settings,
            by any number of processes; otherwise it is thrown away, which is logged.
        settings: plain values.
        part: number of this process's file; None for a process that only reads.

    Raises:
        ConfigError: the processes do not see one another's files.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], part: int | None) -> None:
        self.folder = folder
        self.settings = settings
        if is_main_process():
            _prepare(folder, settings)
        barrier()
        if _read_settings(folder) != settings:
            raise ConfigError(
                f"{folder} is not the one that process 0 has made: run.output_dir has to lie on a disk that "
                "all processes share"
            )
        self.done = frozenset(batch.number for batch in self.batches())
        """Numbers of the batches that were there already."""
        barrier()  # all have read before anyone writes
        self._file = None
        if part is not None:
            path = folder / f"part-{part}.jsonl"
            with writing(path):
                _cut_half_line(path)
                self._file = path.open("a", encoding="utf-8")

    def append(self, batch: FinishedBatch) -> None:
        """Write a batch down; it survives the end of this process."""
        if self._file is not None:
            with writing(self._file.name):
                self._file.write(json.dumps(asdict(batch), ensure_ascii=False) + "\n")
                self._file.flush()

    def finish(self) -> list[FinishedBatch]:
        """Close this process's file and return what all processes have, once they are done."""
        if self._file is not None:
            self._file.close()
        barrier()
        batches = self.batches()
        barrier()  # process 0 may remove the folder from here on
        return batches

    def batches(self) -> list[FinishedBatch]:
        """Return the finished batches of all processes, in the order of the data set."""
        found: dict[int, FinishedBatch] = {}
        for path in sorted(self.folder.glob("part-*.jsonl")):
            for line in path.read_bytes().splitlines(keepends=True):
                batch = _batch(line)
                if batch is not None:
                    found[batch.number] = batch
        return [found[number] for number in sorted(found)]


def _prepare(folder: Path, settings: Mapping[str, Any]) -> None:
    """Leave in the folder what was written under these settings, or nothing."""
    before = _read_settings(folder)
    if before == settings:
        return
    if before is not None:
        logger.warning(
            "%s holds a generation with other settings, which is thrown away: %s",
            folder,
            "; ".join(differences(before, settings)),
        )
    with writing(folder):
        if folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    write_json(folder / SETTINGS_FILE, settings)


def _read_settings(folder: Path) -> Any:
    try:
        return json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def differences(before: Any, after: Any, key: str = "") -> list[str]:
    """Return where two nested settings differ, e.g. ``generation.num_beams: 1, now 3``."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys: Sequence[str] = [*before, *(name for name in after if name not in before)]
        return [
            line
            for name in keys
            for line in differences(before.get(name), after.get(name), f"{key}.{name}".lstrip("."))
        ]
    return [] if before == after else [f"{key}: {before}, now {after}"]


def _cut_half_line(path: Path) -> None:
    """Remove from a file's end what is no whole line."""
    if path.is_file():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _batch(line: bytes) -> FinishedBatch | None:
    """Return the batch of a line; None if the line is not whole."""
    try:
        return FinishedBatch(**json.loads(line)) if line.endswith(b"\n") else None
    except (ValueError, TypeError):  # a power failure may leave zeros
        return None


def predictions_file(output_dir: Path, split: str) -> Path:
    """Return where the reports of a split are: a JSON object a line, in the order of the data."""
    return output_dir / f"predictions_{split}.jsonl"


def timing_file(output_dir: Path, split: str) -> Path:
    """Return where it is said how the reports of a split were made, and how long it took."""
    return output_dir / f"generation_{split}.json"


def prediction_rows(samples: Batch, reports: Sequence[GeneratedReport]) -> list[dict[str, Any]]:
    """Return an object for each image of a batch; its `reference` is empty where there is none."""
    columns = (samples["image_id"], samples.get("study_id", samples["image_id"]), samples["caption"], reports)
    return [
        {
            "image_id": image_id,
            "study_id": study_id,
            "source": samples.get("source", ""),
            "prompt": samples.get("prompt", ""),
            "generated": report.text,
            "reference": reference,
            "tokens": report.tokens,
            "stop_reason": report.stop_reason,
            "mean_log_probability": round(report.mean_log_probability, DIGITS),
        }
        for image_id, study_id, reference, report in zip(*columns, strict=True)
    ]


def write_predictions(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines; a reader sees the old file or the new one."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_timing(path: Path, journals: Sequence[GenerationJournal], command: str) -> None:
    """Write how the reports of a split were made, and how long it took.

    Args:
        journals: of the split's data sets.
        command: of the run.

    Times differ from run to run, so they are not with the reports, whose file is the same each time.
    """
    parts: list[dict[str, Any]] = []
    for journal in journals:
        batches = [
            {
                "number": batch.number,
                "images": len(batch.rows),
                "tokens": sum(row["tokens"] for row in batch.rows),
                "seconds": batch.seconds,
            }
            for batch in journal.batches()
        ]
        parts.append({**_totals(batches), "settings": journal.settings, "batches": batches})
    write_json(path, {**_totals(parts), "command": command, "datasets": parts})


def _totals(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return sums, and rates of one process: with W processes, seconds are those of all W."""
    images, tokens = (sum(part[key] for part in parts) for key in ("images", "tokens"))
    seconds = sum(part["seconds"] for part in parts)
    rates = {"images_per_second": images, "tokens_per_second": tokens}
    return {
        "images": images,
        "tokens": tokens,
        "seconds": round(seconds, 3),
        **{key: round(value / seconds, 3) if seconds else None for key, value in rates.items()},
    }
