"""Counting over hundreds of thousands of rows in memory that does not grow with them (or hardly)."""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

NAMED = 5
MAX_KEYS = 100
OTHERS = "others"


def hash_of(text: str) -> int:
    """Return a 64-bit hash, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


@dataclass(slots=True)
class Places:
    """How often something occurred, and where the first times."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(name)


class Tally:
    """`Places` for each of several things; beyond `MAX_KEYS` of them the rest are counted together."""

    def __init__(self) -> None:
        self._places: dict[str, Places] = {}

    def add(self, key: str, name: str) -> None:
        """Count one more `key`, at the place `name`."""
        if key not in self._places and len(self._places) >= MAX_KEYS:
            key = OTHERS
        self._places.setdefault(key, Places()).add(name)

    def __iter__(self) -> Iterator[tuple[str, Places]]:
        """Go through the keys, most frequent first."""
        return iter(sorted(self._places.items(), key=lambda item: (-item[1].count, item[0])))

    def __len__(self) -> int:
        return len(self._places)

    def total(self) -> int:
        """Return the count over all keys."""
        return sum(places.count for places in self._places.values())


class HashSample(Generic[T]):
    """Keeps the `size` items whose keys have the smallest hashes: the same choice in whatever order."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[int, str, T]] = []

    def wants(self, key: str) -> bool:
        """Tell whether an item of this key would be kept, so that it need not be made otherwise."""
        return len(self._heap) < self._size or -hash_of(key) > self._heap[0][0]

    def add(self, key: str, item: T) -> None:
        """Offer an item; only the first of a key counts."""
        if not self.wants(key) or any(key == kept for _, kept, _ in self._heap):
            return
        entry = (-hash_of(key), key, item)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def items(self) -> list[T]:
        """Return what was kept, by key."""
        return [item for _, key, item in sorted(self._heap, key=lambda entry: entry[1])]


@dataclass(frozen=True, slots=True)
class Groups:
    """Values that occur more than once."""

    values: int
    """Number of different values that do."""
    members: int
    """Number of occurrences of them."""
    first: list[tuple[int, list[int]]]
    """The first few values: hash, and the offsets of the rows where they occur, a few different ones."""


class EqualValues:
    """Finds equal values among millions, in 28 bytes for each; compares hashes of 64 bits.

    With 400,000 values the odds that two different ones are taken for equal are 1 in 200 million.
    """

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._studies = array("Q")
        self._splits = array("I")
        self._offsets = array("Q")
        self._split_numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, value: str, study_id: str, split: str, offset: int) -> None:
        """Note a value of a study whose row begins at `offset`."""
        self._hashes.append(hash_of(value))
        self._studies.append(hash_of(study_id))
        self._splits.append(self._split_numbers.setdefault(split, len(self._split_numbers)))
        self._offsets.append(offset)

    def repeated(self) -> Groups:
        """Return the values that occur more than once."""
        return self._groups(np.arange(len(self._hashes), dtype=np.uint64))

    def across_studies(self) -> Groups:
        """Return the values that occur in more than one study."""
        return self._groups(np.array(self._studies))

    def across_splits(self) -> Groups:
        """Return the values that occur in more than one split."""
        return self._groups(np.array(self._splits))

    def _groups(self, owners: NDArray[np.unsignedinteger[Any]]) -> Groups:
        """Return the values that occur with more than one owner; `owners` has one for each value noted."""
        if not self._hashes:
            return Groups(0, 0, [])
        hashes = np.array(self._hashes)
        order = np.argsort(hashes, kind="stable")
        ordered, owned = hashes[order], owners[order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        sizes = np.diff(np.append(starts, len(ordered)))
        shared = np.minimum.reduceat(owned, starts) != np.maximum.reduceat(owned, starts)
        starts, sizes = starts[shared], sizes[shared]
        earliest = np.argsort(order[starts])[:NAMED]
        members = [order[starts[i] : starts[i] + sizes[i]] for i in earliest]
        return Groups(len(starts), int(sizes.sum()), [self._first(group, owners) for group in members])

    def _first(
        self, members: NDArray[np.int64], owners: NDArray[np.unsignedinteger[Any]]
    ) -> tuple[int, list[int]]:
        """Return a value's hash and where the first few of its owners have it."""
        firsts = np.sort(np.unique(owners[members], return_index=True)[1])[:NAMED]
        return self._hashes[members[0]], [self._offsets[member] for member in members[firsts]]
