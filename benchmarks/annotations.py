"""What many annotations cost: the time to read them, the memory of a process and of its loading processes.

    python -m benchmarks.annotations

Files of 1,000, 25,000 and 250,000 rows are read in two ways, each in a process of its own: through a
builder, as a training does, and by ``json.load`` into a list of dicts, as LAVIS' data sets do. Then all rows
go through a `BatchLoader` once. Seconds are the processor's, so that other programs do not count. Memory is
what the process has beyond that before it read; of a loading process it is what it shares with no other
(``Private_Dirty``, which only Linux tells), after its first batch and after its last.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.measuring import PeakMemory
from xraygpt.datasets.batch import Sample
from xraygpt.datasets.builders import BuildInfo, DatasetConfig, MIMICBuilder
from xraygpt.datasets.datasets.annotations import ANNOTATION_FILE
from xraygpt.datasets.datasets.base_dataset import ReportDataset
from xraygpt.datasets.stream import BatchLoader, EvalStream
from xraygpt.doctor.machine import resident_bytes

BATCH, WORKERS = 64, 2
TEXT = (
    "the lungs are clear without focal consolidation pleural effusion or pneumothorax heart size is normal "
    "mediastinal contours within limits no acute osseous abnormality there mild bibasilar atelectasis"
)


class ListOfDicts(ReportDataset):
    """All rows of an annotation file as ``json.load`` returns them."""

    name = "list"

    def __init__(self, file: Path) -> None:
        with file.open() as opened:
            self.annotation = json.load(opened)["annotations"]

    def __len__(self) -> int:
        return len(self.annotation)

    def __getitem__(self, index: int) -> Sample:
        row = self.annotation[index]
        return {
            "caption": row["caption"],
            "image_id": row["image_id"],
            "study_id": row["study_id"],
            "source": self.name,
        }


def built(file: Path) -> ReportDataset:
    """Build the data set as a training does."""
    section = DatasetConfig(BuildInfo(str(file.parent)), data_type="text")
    return MIMICBuilder(section).build_datasets()["train"]


WAYS: dict[str, Callable[[Path], ReportDataset]] = {"list of dicts": ListOfDicts, "ours": built}


class Cost(NamedTuple):
    """What one way took; all but the seconds in bytes."""

    seconds: float
    held: int
    peak: int | None
    first: int
    """Of the loading process that has most, after its first batch."""
    last: int
    """After a pass."""


def measure(way: str, file: Path) -> Cost:
    """Read an annotation file and go through it once."""
    before = resident_bytes()
    with PeakMemory(torch.device("cpu")) as peak:
        start = time.process_time()
        dataset = WAYS[way](file)
        seconds = time.process_time() - start
    held = resident_bytes() - before
    private: list[int] = []
    loader = BatchLoader(EvalStream(dataset, BATCH, seed=0), num_workers=WORKERS)
    for number, _ in enumerate(loader, 1):
        if number in (1, len(loader)):
            private.append(max(private_bytes(child.pid) for child in multiprocessing.active_children()))
    return Cost(seconds, held, peak.bytes, private[0], private[-1])


def fork_loading_processes() -> None:
    """Start loading processes as a training does, whatever this process was started by."""
    multiprocessing.set_start_method("fork", force=True)


def private_bytes(process: int | None) -> int:
    """Return the memory that a process has written to and shares with no other."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


def write_annotations(file: Path, rows: int) -> None:
    """Write an annotation file with 370 bytes a row, as many as a summary of a report of MIMIC-CXR has."""
    draw, words = random.Random(0), TEXT.split()
    with file.open("w") as opened:
        opened.write('{"annotations": [')
        for number in range(rows):
            row = {
                "image_id": "-".join(f"{draw.getrandbits(32):08x}" for _ in range(5)),
                "caption": " ".join(draw.choices(words, k=32)),
                "split": "train",
                "study_id": str(50_000_000 + number // 2),
                "view": "PA",
            }
            opened.write((",\n" if number else "\n") + json.dumps(row))
        opened.write("\n]}\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time and memory of many annotations.")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1_000, 25_000, 250_000], help="rows of each file"
    )
    counts: list[int] = parser.parse_args(argv).rows
    print("| rows | file | way | seconds | memory | peak | loading process, first batch | last batch |")
    print("|---|---|---|---|---|---|---|---|")
    # A new process for each: memory that was freed would be used again.
    pool = ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=fork_loading_processes,
        max_tasks_per_child=1,
    )
    with tempfile.TemporaryDirectory() as folder, pool:
        file = Path(folder) / ANNOTATION_FILE
        for rows in counts:
            write_annotations(file, rows)
            for way in WAYS:
                seconds, *sizes = pool.submit(measure, way, file).result()
                cells = [
                    "–" if size is None else f"{size / 1e6:.1f} MB" for size in (file.stat().st_size, *sizes)
                ]
                print(
                    f"| {rows:,} | {cells[0]} | {way} | {seconds:.2f} | {' | '.join(cells[1:])} |", flush=True
                )


if __name__ == "__main__":
    main()
