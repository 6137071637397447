"""Work spread over processes, with a bounded number of items under way."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from xraygpt.common.errors import DataError

T = TypeVar("T")
R = TypeVar("R")

CHUNKS_PER_PROCESS = 4


def map_chunks(
    function: Callable[[list[T]], R], items: Iterable[T], chunk: int, processes: int
) -> Iterator[R]:
    """Yield ``function(chunk of items)`` in order, computed in `processes` processes; one means this one.

    `items` is read only a few chunks ahead, so that it may be longer than memory. The processes end with this
    one, also when it is killed.

    Raises:
        DataError: a process died, for example for lack of memory.
    """
    iterator = iter(items)
    chunks = iter(lambda: list(itertools.islice(iterator, chunk)), [])
    if processes == 1:
        yield from map(function, chunks)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy open files and locks
    under_way: deque[Future[R]] = deque()
    with ProcessPoolExecutor(processes, context, _end_with_parent) as pool:
        try:
            for part in chunks:
                under_way.append(pool.submit(function, part))
                if len(under_way) >= CHUNKS_PER_PROCESS * processes:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BrokenProcessPool as error:
            raise DataError(
                "a process was killed, maybe for lack of memory; start the same command again to go on, "
                "with fewer --processes if it happens again"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """Watch the parent process; a worker would otherwise wait for ever for one that was killed.

    Ctrl-C reaches every process of a terminal and is left to the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
