"""The files of a generation: its reports, how they were made, and a journal to resume from while it runs.

The reports are in ``predictions_<split>.jsonl``, beside them ``generation_<split>.json``. The folder of a
journal holds ``settings.json``, all that the reports are a function of, and ``part-<process>.jsonl`` from
each process, a line for each finished batch. Half a line, from a process that was killed while it wrote,
counts as not written.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xraygpt.common.config import Config
from xraygpt.common.dist_utils import barrier, is_main_process
from xraygpt.common.errors import ConfigError
from xraygpt.common.files import file_sha256
from xraygpt.common.paths import resolve_path
from xraygpt.common.precision import DTYPES
from xraygpt.common.run_record import write_json, write_text, writing
from xraygpt.datasets.batch import Batch
from xraygpt.datasets.datasets.base_dataset import ReportDataset
from xraygpt.datasets.stream import EvalStream
from xraygpt.evaluation.protocol import GenerationFacts, facts_from_settings
from xraygpt.models.base_model import BaseModel
from xraygpt.models.generation import GeneratedReport
from xraygpt.tasks.base_task import EvalContext

SETTINGS_FILE = "settings.json"
PREPARATION_FILE = "preparation.json"
"""What prepare.py leaves in a folder that it has written."""
DIGITS = 4
"""Decimals of a log-probability; those behind them are rounding of float32 and of the hardware."""
_VALUES = 1024
"""Values that a fingerprint takes of each tensor; a training step changes nearly all of them."""

logger = logging.getLogger(__name__)


# The journal


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
                self._file = path.open("ab+")
                self._file.seek(0)
                self._file.truncate(self._file.read().rfind(b"\n") + 1)  # no half line at its end

    def append(self, batch: FinishedBatch) -> None:
        """Write a batch down; it survives the end of this process."""
        if self._file is not None:
            with writing(self._file.name):
                self._file.write(json.dumps(asdict(batch), ensure_ascii=False).encode() + b"\n")
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
                try:
                    batch = FinishedBatch(**json.loads(line)) if line.endswith(b"\n") else None
                except (ValueError, TypeError):  # a power failure may leave zeros
                    continue
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
        return [
            line
            for name in dict.fromkeys([*before, *after])
            for line in differences(before.get(name), after.get(name), f"{key}.{name}".lstrip("."))
        ]
    return [] if before == after else [f"{key}: {before}, now {after}"]


# The reports


def predictions_path(output_dir: Path, split: str) -> Path:
    """Return where the reports of a split are: a JSON object a line, in the order of the data."""
    return output_dir / f"predictions_{split}.jsonl"


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


def write_timing(output_dir: Path, split: str, journals: Sequence[GenerationJournal], command: str) -> None:
    """Write ``generation_<split>.json``: how the reports of a split were made, and how long it took.

    Times differ from run to run, so they are not with the reports, whose file is the same each time.

    Args:
        journals: of the split's data sets.
        command: of the run.
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
    content = {**_totals(parts), "command": command, "datasets": parts}
    write_json(output_dir / f"generation_{split}.json", content)


def _totals(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return sums, and rates of one process: with W processes, seconds are those of all W."""
    images, tokens, seconds = (sum(part[key] for part in parts) for key in ("images", "tokens", "seconds"))
    return {
        "images": images,
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 3) if seconds else None,
        "tokens_per_second": round(tokens / seconds, 3) if seconds else None,
    }


# What generated reports are a function of


def generation_settings(
    cfg: Config, model: BaseModel, stream: EvalStream, context: EvalContext
) -> dict[str, Any]:
    """Return all that decides about the reports of a data set, but for the content of its images.

    The size of the batches is part of it: the rounding of a sum, and so the last digit of a probability,
    depends on what is computed together. The number of processes is not, since batches are the same with any.
    """
    config = cfg.to_dict()
    on_gpu = context.device.type == "cuda"
    settings = {
        "split": context.split,
        "data": data_fingerprint(stream.dataset),
        "images": len(stream.dataset),
        "reference_sections": reference_sections(config["datasets"]),
        "prompt": stream.prompt,
        "generation": asdict(cfg.run_cfg.generate),
        "batch_size": stream.batch_size,
        "seed": context.seed,
        "precision": next(name for name, dtype in DTYPES.items() if dtype is context.precision.dtype),
        "device": torch.cuda.get_device_name(context.device) if on_gpu else context.device.type,
        "weights": weights_fingerprint(model),
        "checkpoint": checkpoint_of(cfg),
        "torch": str(torch.__version__),
        "transformers": importlib.metadata.version("transformers"),
        "config": {"model": config["model"], "datasets": config["datasets"]},
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def weights_fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of names, shapes, number formats and evenly spread values of a model's tensors.

    Reading all of a language model would take as long as many reports.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().flatten()
        picked = flat[:: max(len(flat) // _VALUES, 1)][:_VALUES]
        digest.update(picked.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def data_fingerprint(dataset: ReportDataset) -> str:
    """Return the SHA-256 of a split's length and identity, and of its image ids, studies and reports."""
    digest = hashlib.sha256(f"{len(dataset)}{dataset.identity}".encode())
    for row in dataset.rows:
        digest.update(json.dumps([row.image_id, row.study_id, row.caption]).encode())
    return digest.hexdigest()


def checkpoint_of(cfg: Config) -> str:
    """Return the file that the weights come from, or what there is to say in words."""
    if not cfg.run_cfg.evaluate:
        return "trained in the same run"
    file = cfg.run_cfg.resume_ckpt_path or getattr(cfg.model_cfg, "ckpt", None)
    if file == "auto":
        return "the latest in the output folder"
    return str(file) if file else "none: the weights of the model type"


def reference_sections(datasets: Mapping[str, Mapping[str, Any]]) -> Sequence[str] | str:
    """Return what the reports of data sets are made of, see `GenerationFacts.reference_sections`.

    Args:
        datasets: the section of that name of a configuration.
    """
    if set(datasets) == {"phantom"}:
        return ("findings", "impression")
    prepared = [_is_cleaned((each.get("build_info") or {}).get("storage")) for each in datasets.values()]
    return "made of findings and impression after cleaning" if all(prepared) else "as the data set gives them"


def _is_cleaned(storage: str | None) -> bool:
    """Tell whether a folder holds reports as prepare.py cleans them, not rewritten by a language model."""
    try:
        file = Path(resolve_path(storage or "")) / PREPARATION_FILE
        settings = json.loads(file.read_text(encoding="utf-8"))["settings"]
        return bool(storage and settings["cleaning"]) and not settings["rewriting"]
    except (OSError, ValueError, KeyError, TypeError):  # none, or not prepare.py's file of that name
        return False


def generation_facts(settings: Sequence[Mapping[str, Any]], command: str) -> GenerationFacts:
    """Return how the reports of a split were made, for the protocol.

    Args:
        settings: of each data set of the split, see `generation_settings`; all but the data is the same.
        command: of this run.
    """
    file = Path(resolve_path(settings[0]["checkpoint"]))
    sha256 = file_sha256(file) if file.is_file() else None
    return facts_from_settings(settings, command=command, checkpoint_sha256=sha256)
