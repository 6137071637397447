"""Records and folders as `prepare.py` writes them, with made-up studies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

CAPTION = "Findings: The heart is of normal size. Impression: No acute disease."


def picture(image_id: str, **changes: Any) -> dict[str, Any]:
    """Return the record's row of an image that was written."""
    row = {
        "image_id": image_id,
        "view": "PA",
        "outcome": "written",
        "reason": "",
        "file": f"{image_id}.png",
        "width": 512,
        "height": 400,
        "original_width": 2544,
        "original_height": 3056,
        "bytes": 1000,
        "sha256": "",
        "pixels": f"pixels of {image_id}",
        "notes": [],
    }
    return row | changes


def study(study_id: str, *pictures: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the record's row of a study that was kept, with one image unless others are given."""
    row = {
        "study_id": study_id,
        "patient_id": f"patient of {study_id}",
        "split": "train",
        "outcome": "kept",
        "rule": "",
        "detail": "",
        "caption": CAPTION,
        "changes": [],
        "labels_before": {"No Finding": 1},
        "labels_after": {"No Finding": 1},
        "pictures": list(pictures) or [picture(f"{study_id}_1")],
    }
    return row | changes


def refused(study_id: str, rule: str, outcome: str = "dropped", **changes: Any) -> dict[str, Any]:
    """Return the record's row of a study that was dropped or rejected."""
    row = {
        "outcome": outcome,
        "rule": rule,
        "detail": f"{rule}, said at length",
        "caption": "",
        "pictures": [],
    }
    return study(study_id) | row | changes


def change(rule: str, before: str, after: str) -> dict[str, str]:
    return {"rule": rule, "before": before, "after": after}


def write_record(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write ``studies.jsonl``."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_folder(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a prepared folder: images, annotations, record and checksums of the rows' written images."""
    (folder / "image").mkdir(parents=True)
    annotations: list[dict[str, str]] = []
    names = ["filter_cap.json", "studies.jsonl"]
    for number, row in enumerate(rows):
        if row.get("outcome") != "kept":
            continue
        for shade, image in enumerate(row["pictures"]):
            name = f"image/{image['file']}"
            Image.new("L", (8, 8), 10 * number + shade).save(folder / name)
            names.append(name)
            keys = {key: row[key] for key in ("caption", "split", "study_id")}
            annotations.append({"image_id": image["image_id"], **keys})
    write_annotations(folder, annotations)
    write_record(folder / "studies.jsonl", rows)
    write_sums(folder, names)
    return folder


def write_annotations(folder: Path, annotations: list[Any]) -> None:
    (folder / "filter_cap.json").write_text(json.dumps({"annotations": annotations}), encoding="utf-8")


def write_sums(folder: Path, names: Iterable[str]) -> None:
    lines = (f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
