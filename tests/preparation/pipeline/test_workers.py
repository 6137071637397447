"""Chunks over processes: order, laziness, death of a worker."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from xraygpt.common.errors import DataError
from xraygpt.preparation.pipeline.workers import map_chunks


def total(numbers: list[int]) -> int:
    return sum(numbers)


def die(numbers: list[int]) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes: int) -> None:
    assert list(map_chunks(total, range(10), 3, processes)) == [3, 12, 21, 9]
    assert list(map_chunks(total, [], 3, processes)) == []


def test_items_are_read_a_few_chunks_ahead_only() -> None:
    read: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            yield number

    results = map_chunks(total, endless(), 10, 2)
    assert next(results) == 45
    assert len(read) <= 100
    results.close()  # type: ignore[attr-defined]


def test_a_killed_process_is_an_error_for_people() -> None:
    with pytest.raises(DataError, match="memory"):
        list(map_chunks(die, range(3), 1, 2))


def test_processes_end_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "from xraygpt.preparation.pipeline.workers import map_chunks\n"
        "def wait(items):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    list(map_chunks(wait, [1, 2], 1, 2))\n"
    )
    file = tmp_path / "main.py"
    file.write_text(code)
    with subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
    deadline = time.monotonic() + 20
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, "the workers outlive their parent"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
