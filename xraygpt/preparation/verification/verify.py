"""Does a prepared folder hold what a builder needs? Finds every problem at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from xraygpt.common.errors import MissingFileError, XrayGPTError
from xraygpt.datasets.datasets.annotations import (
    ANNOTATION_FILE,
    IMAGE_FOLDER,
    SPLITS,
    Annotation,
    scan_annotations,
)
from xraygpt.datasets.datasets.shard_index import SHARD_FOLDER
from xraygpt.preparation.pipeline.output_folder import RECORD_FILE, WORK_FOLDER
from xraygpt.preparation.verification.verification import Verification
from xraygpt.preparation.verification.verify_files import check_files
from xraygpt.preparation.verification.verify_record import check_record


def verify_folder(folder: Path, *, quick: bool = False, workers: int = 1) -> Verification:
    """Check a folder made by ``prepare.py``, or any with ``filter_cap.json`` and ``image/``.

    Args:
        quick: do not decode the images.
        workers: processes that decode and compute checksums.

    Raises:
        MissingFileError: no such folder.
        DataError: a process died, for example for lack of memory.
    """
    if not folder.is_dir():
        raise MissingFileError(f"missing folder: {folder}")
    result = Verification(folder)
    if (folder / WORK_FOLDER).exists():
        result.add("an unfinished preparation; run its command again", str(folder / WORK_FOLDER))
    annotations = _check_annotations(folder / ANNOTATION_FILE, result)
    with_images = (folder / IMAGE_FOLDER).is_dir() or (folder / SHARD_FOLDER).is_dir()
    if not with_images and not (folder / RECORD_FILE).is_file():
        result.add(f"neither {IMAGE_FOLDER}/ nor {SHARD_FOLDER}/ is there", str(folder))
    elif not with_images:
        result.nothing.append(f"neither {IMAGE_FOLDER}/ nor {SHARD_FOLDER}/: reports alone")
    check_record(folder / RECORD_FILE, annotations, with_images, result)
    check_files(folder, annotations, result, decode=not quick, workers=workers)
    return result


def _check_annotations(path: Path, result: Verification) -> list[Annotation] | None:
    """Return the usable annotations; None if the file cannot be read at all."""
    try:
        annotations, problems = scan_annotations(path)
    except XrayGPTError as error:
        result.add(f"{ANNOTATION_FILE} cannot be read", str(error))
        return None
    for problem in problems:
        result.add("unusable annotations", problem)
    if not annotations and not problems:
        result.add("no annotation", str(path))
    seen: set[str] = set()
    for row in annotations:
        if row.image_id in seen:
            result.add("image ids that are annotated twice", f"{row.image_id} ({row.place})")
        seen.add(row.image_id)
        if not row.caption.strip():
            result.add("empty captions", f"{row.image_id} ({row.place})")
        if row.split not in SPLITS:
            result.add(f"splits that are none of {', '.join(SPLITS)}", f"'{row.split}' ({row.place})")
    _check_splits(annotations, result)
    result.checked.append(f"{len(annotations):,} annotations")
    return annotations


def _check_splits(annotations: Sequence[Annotation], result: Verification) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for row in annotations:
        splits[row.study_id].add(row.split)
    for study_id, names in splits.items():
        if len(names) > 1:
            result.add("studies in more than one split", f"{study_id}: {', '.join(sorted(names))}")
