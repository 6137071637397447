"""Second stage of a preparation: the images of the studies that are kept are converted and written."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from xraygpt.pictures.convert import (
    ConvertedPicture,
    PictureConfig,
    RefusedPictureError,
    convert_picture,
)
from xraygpt.preparation.pipeline.output_folder import new_file
from xraygpt.preparation.pipeline.progress import Progress, StudyRow
from xraygpt.preparation.pipeline.workers import map_chunks
from xraygpt.preparation.study import PictureStream

FILES_AT_ONCE = 8


def convert_pictures(
    progress: Progress,
    stream: PictureStream | None,
    folder: Path,
    scratch: Path,
    config: PictureConfig,
    processes: int,
) -> None:
    """Convert every image that is still wanted into `folder`, and note what became of it.

    Args:
        stream: hands out the images that lie in no file of their own.
        scratch: folder on the same disk, where files grow before they are moved to `folder`.
    """
    progress.forget_pictures(_lost(progress, folder))
    convert = functools.partial(_convert_all, folder=folder, scratch=scratch, config=config)
    with tqdm(desc="images", unit=" images", total=progress.pending_count(), mininterval=1) as bar:

        def convert_each(items: Iterable[tuple[str, Path | bytes]], chunk: int) -> None:
            for rows in map_chunks(convert, items, chunk, processes):
                progress.add_pictures(rows)
                bar.update(len(rows))

        convert_each(progress.pending_files(), FILES_AT_ONCE)
        if stream is not None and (wanted := progress.pending_ids()):
            convert_each(stream.picture_files(wanted), 1)
            progress.add_studies(
                StudyRow({"unusable": member.place, "reason": member.reason})
                for member in stream.skipped_members
            )
    absent = "not among the images"
    progress.add_pictures(_refused(image_id, absent, "") for image_id in sorted(progress.pending_ids()))


def _lost(progress: Progress, folder: Path) -> list[str]:
    """Return the images that are noted as written and are not there in full."""
    return [
        row["image_id"]
        for row in progress.pictures()
        if row["outcome"] == "written" and _size(folder / row["file"]) != row["bytes"]
    ]


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _convert_all(
    items: Sequence[tuple[str, Path | bytes]], folder: Path, scratch: Path, config: PictureConfig
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for image_id, content in items:
        try:
            picture = convert_picture(content, image_id, config)
        except RefusedPictureError as error:
            rows.append(_refused(image_id, error.reason, str(error)))
            continue
        name = image_id + picture.suffix
        with new_file(folder / name, scratch) as file:
            file.write(picture.data)
        rows.append(_written(image_id, name, picture))
    return rows


def _written(image_id: str, name: str, picture: ConvertedPicture) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "outcome": "written",
        "file": name,
        "width": picture.width,
        "height": picture.height,
        "original_width": picture.original_width,
        "original_height": picture.original_height,
        "bytes": len(picture.data),
        "sha256": hashlib.sha256(picture.data).hexdigest(),
        "pixels": picture.pixels,
        "view": picture.view,
        "notes": list(picture.notes),
    }


def _refused(image_id: str, reason: str, detail: str) -> dict[str, Any]:
    return {"image_id": image_id, "outcome": "refused", "reason": reason, "detail": detail}
