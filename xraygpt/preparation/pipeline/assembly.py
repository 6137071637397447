"""Last stage of a preparation: the annotation file and the record of every study."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xraygpt.datasets.datasets.annotations import ANNOTATION_FILE
from xraygpt.preparation.pipeline.progress import Progress

RECORD_FILE = "studies.jsonl"
CHECKSUM_FILE = "SHA256SUMS"
NO_PICTURE = "no_usable_picture"
"""The rule by which a study without any image is dropped."""


def write_files(progress: Progress, folder: Path, scratch: Path, with_images: bool) -> int:
    """Write ``filter_cap.json`` and ``studies.jsonl``, in the source's order.

    Args:
        scratch: folder on the same disk, where the files grow before they are moved to `folder`.
        with_images: an annotation for each image that was written; otherwise one for each report, under the
            name of its study.

    Returns:
        The number of annotations.
    """
    count = 0
    with (
        (scratch / RECORD_FILE).open("w", encoding="utf-8") as record,
        (scratch / ANNOTATION_FILE).open("w", encoding="utf-8") as annotations,
    ):
        annotations.write('{"annotations": [')
        for row in _final_rows(progress, with_images):
            record.write(_to_json(row) + "\n")
            for annotation in _annotations(row, with_images):
                annotations.write((",\n" if count else "\n") + _to_json(annotation))
                count += 1
        annotations.write("\n]}\n")
    for name in (RECORD_FILE, ANNOTATION_FILE):
        (scratch / name).replace(folder / name)
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


def _to_json(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)
