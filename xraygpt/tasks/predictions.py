"""The files of a generation: ``predictions_<split>.jsonl`` and, beside it, ``generation_<split>.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xraygpt.common.run_record import write_json
from xraygpt.datasets.batch import Batch
from xraygpt.models.generation import GeneratedReport
from xraygpt.tasks.generation_journal import GenerationJournal

DIGITS = 4
"""Decimals of a log-probability; those behind them are rounding of float32 and of the hardware."""


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
    partial = path.with_name(f"{path.name}.part")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    partial.replace(path)


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
