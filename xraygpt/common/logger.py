"""Records of a run: log lines for people, `metrics.jsonl` for machines, progress on the screen."""

from __future__ import annotations

import json
import logging
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import IO, Any, Protocol, TextIO, TypeVar

from tqdm import tqdm

from xraygpt.common.dist_utils import all_reduce_mean, get_rank, get_world_size, is_main_process
from xraygpt.common.run_record import writing

T = TypeVar("T")

LOG_FILE = "log.txt"
METRICS_FILE = "metrics.jsonl"
SECONDS_BETWEEN_LINES = 15.0
LINE = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
FILE_ONLY = ("py", "transformers", "huggingface_hub", "httpx", "filelock", "torch")
"""Libraries whose warnings ("py": those of Python's `warnings`) are for the log file, not for the console."""

logger = logging.getLogger(__name__)


class LogFile(logging.FileHandler):
    """A log file; a line that cannot be written is an OSError with the file's name, not a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        with writing(self.baseFilename):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Let the exception pass that `emit` has met."""
        raise


class Console(logging.StreamHandler[TextIO]):
    """Lines on stderr, above a progress bar if there is one."""

    def filter(self, record: logging.LogRecord) -> Any:
        """Leave out what libraries have to say, unless it is an error."""
        quiet = record.name.split(".")[0] in FILE_ONLY and record.levelno < logging.ERROR
        return False if quiet else super().filter(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        tqdm.write(self.format(record), file=sys.stderr)


def setup_logger(output_dir: str | Path | None = None, level: int = logging.INFO) -> None:
    """Send log lines to stderr and to `log.txt` in `output_dir`, and nothing of the libraries' to stderr.

    The file also holds warnings and the project's own lines of level DEBUG (the configuration, tracebacks).
    Processes other than 0 only show warnings, and write ``log_<number>.txt`` if they have any. Calling it
    again replaces the earlier setting.

    Raises:
        OSError: the log file cannot be written.
    """
    main = is_main_process()
    level = level if main else logging.WARNING
    handlers: list[logging.Handler] = [Console(sys.stderr)]
    handlers[0].setLevel(level)
    if output_dir is not None:
        path = Path(output_dir) / (LOG_FILE if main else f"log_{get_rank()}.txt")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(LogFile(path, encoding="utf-8", delay=not main))
    for handler in handlers:
        handler.setFormatter(LINE)
    logging.basicConfig(level=level, handlers=handlers, force=True)
    logging.getLogger("xraygpt").setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    _silence_libraries()


def _silence_libraries() -> None:
    """Take bars and lines of its own away from transformers; its warnings go where all others go."""
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    for noisy in ("httpx", "filelock"):  # both would report every request to a server
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
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("a", encoding="utf-8")

    def write(self, values: Mapping[str, Any]) -> None:
        """Append `values` as one line."""
        if self._file is not None:
            record = _json_value(values)
            with writing(self.path):
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
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def progress(
    iterable: Iterable[T],
    total: int | None = None,
    desc: str = "",
    status: Callable[[], str] = str,
    every: int | None = None,
    first: int = 0,
) -> Iterator[T]:
    """Iterate, showing how far it is: a bar on a terminal, else a log line now and then. Process 0 only.

    Args:
        total: number of items, including the `first` ones, which are done already; None for the length of
            `iterable`, if it has one.
        status: returns what else to show.
        every: items between two log lines; None for one every `SECONDS_BETWEEN_LINES`. The log file has the
            lines of `every` in any case.
    """
    if not is_main_process():
        yield from iterable
        return
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    hidden = not sys.stderr.isatty()
    bar = tqdm(
        total=total,
        initial=first,
        desc=desc,
        file=sys.stderr,
        dynamic_ncols=True,
        leave=False,
        disable=hidden,
    )
    with bar:
        start = last = time.monotonic()
        for done, item in enumerate(iterable, start=first + 1):
            yield item
            now = time.monotonic()
            if not hidden:
                bar.set_postfix_str(status(), refresh=False)
                bar.update()
            if done % every == 0 or done == total if every else now - last >= SECONDS_BETWEEN_LINES:
                last, seconds = now, now - start
                how_far = f"{done}, {seconds:.0f} s"
                if total is not None:
                    left = seconds * (total - done) / (done - first)
                    how_far = f"{done}/{total}, {seconds:.0f} s, about {left:.0f} s left"
                level = logging.INFO if hidden or (every and done == total) else logging.DEBUG
                logger.log(level, "%s", f"{desc or 'progress'}: {how_far}  {status()}".rstrip())
