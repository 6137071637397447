"""Does a prepared folder hold what a builder needs? Finds every problem at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from xraygpt.common.errors import MissingFileError, XrayGPTError
from xraygpt.common.tables import SPLITS, normalise_split
from xraygpt.datasets.datasets.annotations import ANNOTATION_FILE, Annotation, scan_annotations
from xraygpt.datasets.datasets.images import IMAGE_FOLDER
from xraygpt.datasets.datasets.shard_index import SHARD_FOLDER
from xraygpt.preparation.pipeline.output_folder import RECORD_FILE, WORK_FOLDER
from xraygpt.preparation.record.studies import LeakageSearch, Row, read_record, written_pictures
from xraygpt.preparation.verification.verify_files import Verification, check_files


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


def check_record(
    path: Path, annotations: Sequence[Annotation] | None, with_images: bool, result: Verification
) -> None:
    """Compare ``studies.jsonl`` with the annotations and search it for patients in two splits.

    Args:
        annotations: None if they could not be read.
        with_images: an annotation is an image; otherwise it is a report.
    """
    if not path.is_file():
        result.nothing.append(f"no {path.name}: whether a patient is in two splits")
        return
    search = LeakageSearch()
    left = {row.image_id: row for row in annotations or ()}
    studies = 0
    try:
        for row in read_record(path):
            if row.get("outcome") != "kept":
                continue
            studies += 1
            written = written_pictures(row)
            search.add(row, written)
            if annotations is not None:
                ids = [str(picture["image_id"]) for picture in written] if with_images else [row["study_id"]]
                _compare(row, ids, left, result)
    except XrayGPTError as error:
        result.add(f"{path.name} cannot be read", str(error))
        return
    for annotation in left.values():
        result.add(
            f"annotations that {path.name} does not know", f"{annotation.image_id} ({annotation.place})"
        )
    leakage = search.result()
    patients, studies_repeated = leakage.patients_in_splits, leakage.studies_repeated
    result.add_counted("patients in more than one split", patients.values, patients.first)
    what = f"studies that {path.name} lists more than once"
    result.add_counted(what, studies_repeated.values, studies_repeated.first)
    if not leakage.studies_with_patient:
        result.nothing.append(f"{path.name} names no patients: whether one is in two splits")
    result.checked.append(f"{path.name}, {studies:,} kept studies")


def _compare(row: Row, ids: Sequence[str], left: dict[str, Annotation], result: Verification) -> None:
    """Compare the annotations of a study with its row, and take them out of `left`."""
    for image_id in ids:
        annotation = left.pop(image_id, None)
        if annotation is None:
            result.add("kept studies without their annotation", f"{image_id} (study {row['study_id']})")
            continue
        expected = (row["study_id"], normalise_split(row["split"]), row["caption"])
        found = (annotation.study_id, annotation.split, annotation.caption)
        names = ("study_id", "split", "caption")
        differing = [name for name, a, b in zip(names, expected, found, strict=True) if a != b]
        if differing:
            place = f"{image_id}: {', '.join(differing)} ({annotation.place})"
            result.add("annotations that differ from the record", place)
