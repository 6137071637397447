"""The list of keys and shapes of the full-size model, written out from ``minigpt4_keys.txt``."""

import re
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("minigpt4_keys.txt")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)(?:\.\.(\d+))?\}")


class Entry(NamedTuple):
    shape: tuple[int, ...]
    is_buffer: bool


def pinned_keys() -> dict[str, Entry]:
    """All entries of the reference's state, 1,094 of them."""
    entries: dict[str, Entry] = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        pattern, shape, *kind = line.split()
        entry = Entry(tuple(map(int, shape.split("x"))), kind == ["buffer"])
        entries |= dict.fromkeys(_written_out(pattern), entry)
    return entries


def _written_out(pattern: str) -> list[str]:
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
    return [_RANGE.sub(str(number), pattern) for number in range(first, last + 1, step)]
