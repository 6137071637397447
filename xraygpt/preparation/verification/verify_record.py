"""Does the record of a preparation agree with its annotations, and keep patients in one split?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xraygpt.common.errors import XrayGPTError
from xraygpt.datasets.datasets.annotations import Annotation, normalise_split
from xraygpt.preparation.record.leakage import LeakageSearch
from xraygpt.preparation.record.study_record import Row, read_record, written_pictures
from xraygpt.preparation.verification.verification import Verification


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
