"""Random numbers as a function of where one is: no generator's state has to be saved or restored."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from zlib import crc32

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """Return a 32-bit seed that depends on every part, in order (`numpy.random.SeedSequence`)."""
    words = [crc32(part.encode()) if isinstance(part, str) else part for part in parts]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def generator(*parts: int | str) -> np.random.Generator:
    """Return a numpy generator seeded from `parts`."""
    return np.random.default_rng(derive_seed(*parts))


def drawn(options: Sequence[str], *parts: int | str) -> str:
    """Return one of `options`, chosen by `parts`; "" if there are none."""
    return options[int(generator(*parts).integers(len(options)))] if options else ""


def seed_cpu(*parts: int | str) -> None:
    """Seed the global CPU generators of Python, numpy and torch from `parts`."""
    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (other people's transforms may draw from it)
    torch.default_generator.manual_seed(seed)


def seed_everything(*parts: int | str) -> None:
    """Seed the global generators of Python, numpy and torch, those of the GPUs included, from `parts`."""
    seed_cpu(*parts)
    # torch.manual_seed does the same, but asks every kind of device there might be, which takes 0.2 ms.
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(derive_seed(*parts))


@contextmanager
def preserved() -> Iterator[None]:
    """Put the global CPU generators back after the block, which may seed them as it likes."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
