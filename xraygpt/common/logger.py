"""Records of a run: log lines for people, `metrics.jsonl` for machines, progress on the screen."""

from __future__ import annotations

import json
import logging
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from tqdm import tqdm

from xraygpt.common.dist_utils import all_reduce_mean, get_world_size, is_main_process

T = TypeVar("T")

LOG_FILE = "log.txt"
METRICS_FILE = "metrics.jsonl"
SECONDS_BETWEEN_LINES = 15.0

logger = logging.getLogger(__name__)


def setup_logger(output_dir: str | Path | None = None, level: int = logging.INFO) -> None:
    """Send log lines to stderr and, in process 0, to `log.txt` in `output_dir`.

    Processes other than 0 only show warnings. Calling it again replaces the earlier setting.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if output_dir is not None and is_main_process():
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(folder / LOG_FILE, encoding="utf-8"))
    logging.basicConfig(
        level=level if is_main_process() else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        handlers=handlers,
        force=True,
    )
    # Both would otherwise report every request to a server.
    for noisy in ("httpx", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class Tracker(Protocol):
    """Keeps metrics somewhere else as well."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Keep one line of `metrics.jsonl`, which has at least ``event`` and ``step``."""

    def close(self) -> None:
        """Finish writing."""


class MetricsWriter:
    """Appends one JSON object per line to a file; only process 0 writes.

    Each line is flushed, so that a killed run keeps what it wrote. NaN and infinities are written as null,
    which keeps the file plain JSON.

    Args:
        path: the file; its folder is made if need be.
        trackers: get each line, too; closed with the file.
    """

    def __init__(self, path: str | Path, trackers: Sequence[Tracker] = ()) -> None:
        self.path = Path(path)
        self.trackers = trackers
        self._file: IO[str] | None = None
        if is_main_process():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")

    def write(self, values: Mapping[str, Any]) -> None:
        """Append `values` as one line."""
        if self._file is not None:
            record = _json_value(values)
            self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
            for tracker in self.trackers:
                tracker.write(record)

    def close(self) -> None:
        """Close the file; writing afterwards does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None
            for tracker in self.trackers:
                tracker.close()


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    if hasattr(value, "item"):  # a tensor or NumPy scalar
        value = value.item()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


class SmoothedValue:
    """A series of numbers, shown over its last `window_size` entries and over all of it.

    Args:
        window_size: how many of the last values count for `median`, `avg`, `max`.
        fmt: format of `str()`, with any of the names median, avg, global_avg, max, value.
    """

    def __init__(self, window_size: int = 20, fmt: str | None = None) -> None:
        self.fmt = "{median:.4f} ({global_avg:.4f})" if fmt is None else fmt
        self.count = 0
        self.total = 0.0
        self._window: deque[float] = deque(maxlen=window_size)

    def update(self, value: float, n: int = 1) -> None:
        """Add `value`, counted `n` times in the mean over everything."""
        self._window.append(value)
        self.count += n
        self.total += value * n

    def synchronize_between_processes(self) -> None:
        """Make `global_avg` that of all processes; the window stays this process's own."""
        total, count = all_reduce_mean(self.total), all_reduce_mean(float(self.count))
        self.total = total * get_world_size()
        self.count = round(count * get_world_size())

    @property
    def median(self) -> float:
        return statistics.median(self._window)

    @property
    def avg(self) -> float:
        return statistics.fmean(self._window)

    @property
    def global_avg(self) -> float:
        return self.total / self.count

    @property
    def max(self) -> float:
        return max(self._window)

    @property
    def value(self) -> float:
        return self._window[-1]

    def __str__(self) -> str:
        if not self.count:
            return "no values"
        names = ("median", "avg", "global_avg", "max", "value")
        return self.fmt.format(**{name: getattr(self, name) for name in names})


def progress(iterable: Iterable[T], total: int | None = None, desc: str = "") -> Iterator[T]:
    """Iterate, showing how far it is: a bar on a terminal, else a log line now and then. Process 0 only."""
    if not is_main_process():
        yield from iterable
    elif sys.stderr.isatty():
        yield from tqdm(iterable, total=total, desc=desc, file=sys.stderr, dynamic_ncols=True)
    else:
        yield from _with_log_lines(iterable, total, desc)


def _with_log_lines(iterable: Iterable[T], total: int | None, desc: str) -> Iterator[T]:
    start = last = time.monotonic()
    for done, item in enumerate(iterable, start=1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            logger.info("%s: %s", desc or "progress", _how_far(done, total, now - start))


def _how_far(done: int, total: int | None, seconds: float) -> str:
    """Return e.g. "12/30, 45 s, about 68 s left"."""
    if total is None:
        return f"{done}, {seconds:.0f} s"
    return f"{done}/{total}, {seconds:.0f} s, about {seconds * (total - done) / done:.0f} s left"
