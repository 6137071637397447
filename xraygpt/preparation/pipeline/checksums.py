"""``SHA256SUMS`` of a prepared folder, in the form that ``sha256sum --check`` reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from xraygpt.common.files import file_sha256
from xraygpt.datasets.datasets.annotations import ANNOTATION_FILE, IMAGE_FOLDER
from xraygpt.datasets.datasets.shard_index import SHARD_FOLDER
from xraygpt.preparation.pipeline.assembly import CHECKSUM_FILE, RECORD_FILE


def write_checksums(folder: Path, scratch: Path) -> None:
    """Write a line for each file of the data set.

    An image's is the hash of what was to be written, taken from the record, and not of what the disk gives
    back now.

    Args:
        scratch: folder on the same disk, where the file grows before it is moved to `folder`.
    """
    with (scratch / CHECKSUM_FILE).open("w", encoding="utf-8") as file:
        for name in (ANNOTATION_FILE, RECORD_FILE):
            file.write(f"{file_sha256(folder / name)}  {name}\n")
        if (folder / IMAGE_FOLDER).is_dir():
            file.writelines(f"{digest}  {IMAGE_FOLDER}/{name}\n" for name, digest in _images(folder))
        else:
            shards = sorted((folder / SHARD_FOLDER).glob("*"))
            file.writelines(f"{file_sha256(path)}  {path.relative_to(folder)}\n" for path in shards)
    (scratch / CHECKSUM_FILE).replace(folder / CHECKSUM_FILE)


def _images(folder: Path) -> Iterator[tuple[str, str]]:
    with (folder / RECORD_FILE).open(encoding="utf-8") as record:
        for line in record:
            for picture in json.loads(line).get("pictures", ()):
                if picture.get("outcome") == "written":
                    yield picture["file"], picture["sha256"]
