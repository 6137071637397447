"""Which shard holds which image, and where in it: ``shards/index.json``.

    {"version": 1, "shards": [{"name": "train-000000.tar", "bytes": ..., "sha256": "...", "samples": 2,
                               "images": [["s50414267", 512, 30123], ["s59500013", 31232, 28001]]}, ...]}

An entry of ``images`` is an image's id and, in bytes, where its file begins in the tar and how long it is.
Only the standard library is needed here, so that a prepared folder can be checked without torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import load_json
from xraygpt.common.run_record import write_text

SHARD_FOLDER = "shards"
INDEX_FILE = "index.json"
VERSION = 1


class Member(NamedTuple):
    """An image in a shard."""

    image_id: str
    offset: int
    """Where its file begins in the tar, in bytes."""
    size: int
    """Length of its file in bytes."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar."""

    name: str
    bytes: int
    sha256: str
    images: tuple[Member, ...]
    """In the order in which they lie there."""


def has_index(folder: Path) -> bool:
    """Tell whether `folder` is one of shards that are complete."""
    return (folder / INDEX_FILE).is_file()


def read_index(folder: Path) -> list[Shard]:
    """Read ``folder/index.json``.

    Raises:
        MissingFileError: there is none: the folder's preparation did not come to its end.
        DataError: it is damaged.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        raise MissingFileError(
            f"missing file: the index of the shards\n  expected at: {path}\n"
            "  comes from:  the end of the preparation; run its command again"
        )
    return parse_index(load_json(path), str(path))


def parse_index(content: Any, place: str) -> list[Shard]:
    """Return what the content of an index lists.

    Args:
        place: where it was, for messages.

    Raises:
        DataError: it is damaged.
    """
    try:
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']!r}; this program reads version {VERSION}")
        shards = [_shard(node) for node in content["shards"]]
        counts = Counter(member.image_id for shard in shards for member in shard.images)
        if counts and (most := counts.most_common(1)[0])[1] > 1:
            raise ValueError(f"{most[0]} is listed twice")
    except KeyError as error:
        raise DataError(f"{place}: damaged (the key {error} is missing); prepare the shards again") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{place}: damaged ({error}); prepare the shards again") from error
    return shards


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """Write ``folder/index.json``, one shard a line; it is there at once or not at all."""
    nodes = (
        {"name": shard.name, "bytes": shard.bytes, "sha256": shard.sha256, "samples": len(shard.images)}
        | {"images": shard.images}
        for shard in shards
    )
    lines = ",\n".join(json.dumps(node, separators=(",", ":"), ensure_ascii=False) for node in nodes)
    write_text(folder / INDEX_FILE, f'{{"version":{VERSION},"shards":[\n{lines}\n]}}\n')


def file_problems(folder: Path, shards: Sequence[Shard]) -> list[str]:
    """Return which tars are absent or of another size than when they were written, without reading them."""
    problems: list[str] = []
    for shard in shards:
        file = folder / shard.name
        if not file.is_file():
            problems.append(f"{shard.name}: no such file")
        elif (size := file.stat().st_size) != shard.bytes:
            problems.append(f"{shard.name}: {size} bytes, the index says {shard.bytes}")
    return problems


def _shard(node: Any) -> Shard:
    shard = Shard(node["name"], node["bytes"], node["sha256"], tuple(Member(*row) for row in node["images"]))
    if not isinstance(shard.name, str) or Path(shard.name).name != shard.name:
        raise ValueError(f"{shard.name!r} is not the name of a file beside the index")
    if len(shard.images) != node["samples"]:
        raise ValueError(f"{shard.name} has {len(shard.images)} images listed of {node['samples']}")
    for image_id, offset, size in shard.images:
        if not (isinstance(image_id, str) and isinstance(offset, int) and isinstance(size, int)):
            raise TypeError(f"{shard.name}: not an image: {[image_id, offset, size]}")
        if not 0 <= offset <= offset + size <= shard.bytes:
            raise ValueError(f"{shard.name}: {image_id} lies outside of it")
    return shard
