"""The folder that a preparation writes: what may lie there before, work in progress, and the files in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from xraygpt.common.errors import DataError
from xraygpt.common.files import file_sha256, load_json
from xraygpt.common.run_record import writing
from xraygpt.datasets.datasets.annotations import ANNOTATION_FILE
from xraygpt.datasets.datasets.images import IMAGE_FOLDER
from xraygpt.datasets.datasets.shard_index import SHARD_FOLDER
from xraygpt.preparation.pipeline.progress import Progress

RECORD_FILE = "studies.jsonl"
CHECKSUM_FILE = "SHA256SUMS"
REPORT_FILE = "preparation.json"
NO_PICTURE = "no_usable_picture"
"""The rule by which a study without any image is dropped."""
WORK_FOLDER = ".preparing"
"""Holds what is needed to go on after an interruption; removed at the end."""
PROGRESS_FILE = "progress.sqlite"
SCRATCH_FOLDER = "scratch"


@contextmanager
def new_file(path: Path, scratch: Path) -> Iterator[BinaryIO]:
    """Open a file to be written that is there in full or not at all.

    Args:
        scratch: folder on the same disk, where the file grows before it is moved.
    """
    growing = scratch / f"{path.name}.tmp"
    with writing(path):
        with growing.open("wb") as file:
            yield file
        growing.replace(path)


class OutputFolder:
    """A folder that is new, empty, or holds the unfinished or finished work of the same command.

    Args:
        path: the folder.
        settings: what the result depends on, as plain values.

    Raises:
        DataError: it holds something else, or would lead out of itself by a link.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.work = path / WORK_FOLDER
        self.scratch = self.work / SCRATCH_FOLDER
        self.images = path / IMAGE_FOLDER
        if path.exists() and not path.is_dir():
            raise DataError(f"{path}: is a file; name a folder")
        for part in (self.work, self.scratch, self.images, path / SHARD_FOLDER):
            if part.is_symlink():
                raise DataError(f"{part}: is a link that leads out of the folder; remove it")
        self.finished = not self.work.is_dir() and _is_finished(path, settings)
        if not self.finished and not self.work.is_dir() and path.is_dir() and any(path.iterdir()):
            raise DataError(f"{path}: is not empty and no unfinished preparation; name another folder")

    def open(self) -> Path:
        """Make the folders and return the progress file."""
        self.images.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(exist_ok=True)
        return self.work / PROGRESS_FILE

    def clear_scratch(self) -> None:
        """Remove half-written files; only for whoever has the progress file open."""
        if self.scratch.is_dir():
            shutil.rmtree(self.scratch)
        self.scratch.mkdir()

    def close(self) -> None:
        """Remove what was needed to go on."""
        shutil.rmtree(self.work)

    def discard(self) -> None:
        """Remove everything that `open` has made."""
        self.close()
        self.images.rmdir()
        if not any(self.path.iterdir()):
            self.path.rmdir()


def _is_finished(path: Path, settings: dict[str, Any]) -> bool:
    report = path / REPORT_FILE
    if not report.is_file():
        return False
    try:
        stored = load_json(report)["settings"]
    except (DataError, KeyError, TypeError) as error:
        raise DataError(f"{report}: damaged ({error}); name another folder") from error
    if stored != settings:
        raise DataError(f"{path}: was prepared with other settings (see {report}); name another folder")
    return True


def write_files(progress: Progress, folder: Path, scratch: Path, with_images: bool) -> int:
    """Write ``filter_cap.json`` and ``studies.jsonl``, in the source's order.

    Args:
        scratch: see `new_file`.
        with_images: an annotation for each image that was written; otherwise one for each report, under the
            name of its study.

    Returns:
        The number of annotations.
    """
    count = 0
    with (
        new_file(folder / RECORD_FILE, scratch) as record,
        new_file(folder / ANNOTATION_FILE, scratch) as annotations,
    ):
        annotations.write(b'{"annotations": [')
        for row in _final_rows(progress, with_images):
            record.write(_to_json(row) + b"\n")
            for annotation in _annotations(row, with_images):
                annotations.write((b",\n" if count else b"\n") + _to_json(annotation))
                count += 1
        annotations.write(b"\n]}\n")
    return count


def _final_rows(progress: Progress, with_images: bool) -> Iterator[dict[str, Any]]:
    for number, row in progress.studies():
        if with_images and row.get("outcome") == "kept":
            row["pictures"] = [_outcome(picture, progress, number) for picture in row["pictures"]]
            if not any(picture["outcome"] == "written" for picture in row["pictures"]):
                count = len(row["pictures"])
                detail = f"images that can be used: 0 of {count}" if count else "it has no image"
                row |= {"outcome": "dropped", "rule": NO_PICTURE, "detail": detail}
        yield row


def _outcome(picture: dict[str, Any], progress: Progress, study: int) -> dict[str, Any]:
    """Complete what the record says of one image."""
    if "outcome" in picture:
        return picture
    done = progress.picture(picture["image_id"], study)
    if done is None:
        return picture | {"outcome": "refused", "reason": "an image of another study has the same id"}
    return done | {"view": picture["view"] or done.get("view", "")}


def _annotations(row: dict[str, Any], with_images: bool) -> Iterator[dict[str, str]]:
    if row.get("outcome") != "kept":
        return
    common = {"caption": row["caption"], "split": row["split"], "study_id": row["study_id"]}
    if not with_images:
        yield {"image_id": row["study_id"], **common}
        return
    for picture in row["pictures"]:
        if picture["outcome"] == "written":
            view = {"view": picture["view"]} if picture["view"] else {}
            yield {"image_id": picture["image_id"], **common, **view}


def _to_json(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def write_checksums(folder: Path, scratch: Path) -> None:
    """Write ``SHA256SUMS``, as ``sha256sum --check`` reads it: a line for each file of the data set.

    An image's is the hash of what was to be written, taken from the record, and not of what the disk gives
    back now.
    """
    sums = [(name, file_sha256(folder / name)) for name in (ANNOTATION_FILE, RECORD_FILE)]
    if not (folder / IMAGE_FOLDER).is_dir():
        shards = sorted((folder / SHARD_FOLDER).glob("*"))
        sums += [(str(path.relative_to(folder)), file_sha256(path)) for path in shards]
    with new_file(folder / CHECKSUM_FILE, scratch) as file:
        file.writelines(f"{digest}  {name}\n".encode() for name, digest in sums)
        if (folder / IMAGE_FOLDER).is_dir():
            file.writelines(_image_sums(folder))


def _image_sums(folder: Path) -> Iterator[bytes]:
    with (folder / RECORD_FILE).open(encoding="utf-8") as record:
        for line in record:
            for picture in json.loads(line).get("pictures", ()):
                if picture.get("outcome") == "written":
                    yield f"{picture['sha256']}  {IMAGE_FOLDER}/{picture['file']}\n".encode()
