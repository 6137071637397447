"""Random numbers as a function of where one is: no generator's state has to be saved or restored."""

from __future__ import annotations

import random
from collections.abc import Iterator
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


def seed_everything(*parts: int | str) -> None:
    """Seed the global generators of Python, numpy and torch (all devices) from `parts`."""
    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (other people's code may draw from it)
    torch.manual_seed(seed)


@contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Seed the global CPU generators inside the block and put their states back after it."""
    seed = derive_seed(*parts)
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the GPUs too, which fork_rng(devices=[]) does not put back.
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
