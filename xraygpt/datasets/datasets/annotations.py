"""Images with their reports, read from annotation files of the reference and R2Gen and from anyone's tables.

The reference's form is ``{"annotations": [{"image_id": "<file stem>", "caption": "<report>"}, ...]}``. An
annotation may carry a third key, ``"split"``; without it, it belongs to the split ``"train"``, so that the
reference's own files are training data as they are. A fourth, ``"study_id"``, names the examination that the
image was taken in; without it, each image is an examination of its own. Further keys, such as ``"view"``,
are for people. R2Gen's form, ``{"train": [{"id": "<study>", "report": ..., "image_path": ["a/0.png", ...]},
...], ...}``, is read as one annotation for each image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from xraygpt.common.errors import DataError, MissingFileError, did_you_mean, summarise
from xraygpt.common.files import is_missing
from xraygpt.common.paths import leads_outside
from xraygpt.common.tables import SPLITS, Row, normalise_split, read_table
from xraygpt.datasets.datasets.images import ImageStore

ANNOTATION_FILE = "filter_cap.json"
WITHOUT_REPORTS = "test"
"""The split of images that nothing can be learnt from, and the only one whose images may lack a report."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One image and its report."""

    image_id: str
    caption: str
    split: str
    study_id: str
    place: str
    """File and position, for messages: ``filter_cap.json: row [3]``."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What else the file says of the image (``view``, ``sex``, ...): subgroups of an evaluation."""


@dataclass
class Columns:
    """Which column (in JSON: which key) of a table holds what."""

    image: str = "image_id"
    """The path of the image's file below the folder of the images, with its suffix or without; in JSON also a
    list of the paths of a study's images."""
    caption: str | None = "caption"
    """The report. null: the table names images to write reports for; they all are of the split ``test``."""
    split: str | None = None
    """``train``, ``val`` (also ``valid``, ``validate``, ``validation``) or ``test``, in any case. If this is
    not set, the column ``split`` is read if there is one, or else the keys of a file that is ordered by
    splits; where nothing is said (an empty cell, ``nan``, ``NA``), the row is for training."""
    study_id: str | None = None
    """The examination that the image was taken in. If this is not set, the column ``study_id`` is read if
    there is one; where it says nothing (an empty cell, ``nan``, ``NA``), the image is an examination of its
    own."""

    def __post_init__(self) -> None:
        if self.caption is None and self.split is not None:
            raise ValueError(
                "images without reports (caption: null) are all of the split test; leave split out"
            )

    def needed(self) -> list[str]:
        """Return the columns that have to be there."""
        return [name for name in (self.image, self.caption, self.split, self.study_id) if name is not None]


R2GEN = Columns(image="image_path", caption="report", study_id="id")


def read_annotations(path: Path) -> list[Annotation]:
    """Read one annotation file, of the reference's form or of R2Gen's.

    Only images of the split ``test`` may come without a report; theirs is "".

    Raises:
        MissingFileError: no such file.
        DataError: not JSON, or not of these forms; names the file, the row and the key.
    """
    annotations, problems = scan_annotations(path)
    without = {row.place for row in annotations if is_missing(row.caption)}
    problems += [
        f"{row.place}: the report is missing"
        for row in annotations
        if row.place in without and row.split != WITHOUT_REPORTS
    ]
    if problems:
        raise DataError(summarise("unusable annotations", problems))
    if not annotations:
        raise DataError(f"{path}: the list of annotations is empty")
    return [replace(row, caption="") if row.place in without else row for row in annotations]


def scan_annotations(path: Path) -> tuple[list[Annotation], list[str]]:
    """Return the usable rows of an annotation file and what is wrong with each of the others.

    Raises:
        MissingFileError: no such file.
        DataError: it is not JSON, or holds no list of annotations.
    """
    if not path.is_file():
        raise MissingFileError(
            f"missing file: annotations of a data set\n  expected at: {path} (put it there, or set the data "
            'set\'s build_info.storage)\n  its form:    {"annotations": [{"image_id": ..., "caption": ...}]}'
        )
    annotations: list[Annotation] = []
    problems: list[str] = []
    for row in read_table(path, each=R2GEN.image):
        keys = {*row.values, *row.nested}
        columns = R2GEN if R2GEN.image in keys and "image_id" not in keys else Columns()
        problem = _unusable(row, columns)
        if problem:
            problems.append(f"{row.place}: {problem}")
        else:
            annotations.append(_annotation(row, columns))
    return annotations, problems


def _unusable(row: Row, columns: Columns) -> str | None:
    for name in columns.needed():
        if name not in row.values and name not in row.nested:
            there = ", ".join([*row.values, *row.nested]) or "none"
            return f'the key "{name}" is missing (there are: {there})'
    for name in (*columns.needed(), "split", "study_id"):
        if name in row.nested:
            return f'"{name}" must be a text or a number, not {row.nested[name]}'
    if is_missing(row.values[columns.image]):
        return f'"{columns.image}" must name an image, not "{row.values[columns.image]}"'
    return None


def read_annotation_tables(
    paths: Sequence[Path], columns: Columns, images: ImageStore | None
) -> list[Annotation]:
    """Read the annotations of all splits from tables (see `xraygpt.common.tables`), joined in their order.

    Args:
        images: where the images have to be; None if they are not asked for.

    Raises:
        MissingFileError: a table is absent.
        DataError: a table cannot be read or has no such columns, or rows cannot be used; these are all
            counted, and the first of each kind are named by their lines.
    """
    annotations: list[Annotation] = []
    missing: list[str] = []
    for path in paths:
        there: dict[str, None] = {}
        nested: dict[str, str] = {}
        for row in read_table(path, each=columns.image):
            there.update(dict.fromkeys(row.values))
            for name, what in row.nested.items():
                nested.setdefault(name, f"{row.place}: '{name}' has to be a text, not {what}")
            annotation = _annotation(row, columns)
            annotations.append(replace(annotation, caption=annotation.caption.strip()))
        missing += [nested[name] for name in columns.needed() if name in nested]
        missing += _missing_columns(path, columns.needed(), {**there, **nested})
    if missing:
        raise DataError("\n".join(missing))
    problems = _problems(annotations, images, with_captions=columns.caption is not None)
    if problems:
        listed = "\n".join(summarise(what, places) for what, places in problems.items())
        raise DataError(f"{', '.join(map(str, paths))}: rows cannot be used\n{listed}")
    return annotations


def annotations_without_reports(images: ImageStore) -> list[Annotation]:
    """Return an annotation without a report for each image of a store.

    Raises:
        DataError: there is none.
    """
    names = images.image_ids()
    if not names:
        raise DataError(f"{images}: no images in or below it")
    return [Annotation(name, "", WITHOUT_REPORTS, name, images.place(name)) for name in names]


def _annotation(row: Row, columns: Columns) -> Annotation:
    names = (columns.image, columns.study_id or "study_id", columns.split or "split", columns.caption)
    image_id = _known(row, columns.image)
    study_id = _known(row, columns.study_id or "study_id") or image_id
    others = {name: value for name, value in row.values.items() if name not in names}
    if columns.caption is None:
        return Annotation(image_id, "", WITHOUT_REPORTS, study_id, row.place, others)
    split = _known(row, columns.split or "split").lower() or "train"
    caption = row.values.get(columns.caption, "")
    return Annotation(image_id, caption, normalise_split(split), study_id, row.place, others)


def _known(row: Row, column: str) -> str:
    """Return the text of a cell, "" where it is missing."""
    text = row.values.get(column, "").strip()
    return "" if is_missing(text) else text


def _missing_columns(path: Path, needed: Sequence[str], there: Iterable[str]) -> list[str]:
    """Return a line for each column that is not there."""
    names = list(there)
    if not names:
        return [f"{path}: has no rows"]
    return [
        f"{path}: has no column '{name}'{did_you_mean(name, names)} There are: {', '.join(names)}. "
        "Name yours in build_info.columns"
        for name in needed
        if name not in names
    ]


def _problems(
    annotations: Iterable[Annotation], images: ImageStore | None, with_captions: bool
) -> dict[str, list[str]]:
    """Return what is wrong -> the rows it is wrong in."""
    problems: dict[str, list[str]] = defaultdict(list)
    first: dict[str, str] = {}
    for row in annotations:
        if with_captions and is_missing(row.caption):
            problems["rows have no caption"].append(row.place)
        if row.split not in SPLITS:
            problems[f"splits are none of {', '.join(SPLITS)}"].append(f"{row.place}: '{row.split}'")
        if not row.image_id:
            problems["rows name no image"].append(row.place)
            continue
        named = f"{row.place}: {row.image_id}"
        if leads_outside(row.image_id):
            problems["paths lead out of the folder of the images"].append(named)
            continue
        if images is not None and row.image_id not in images:
            problems[f"images are named but absent from {images}"].append(named)
            continue
        # "a" and "a.png" are the same image.
        image = row.image_id if images is None else images.place(row.image_id)
        if image in first:
            problems["images are named twice"].append(f"{named} (before at {first[image]})")
        first.setdefault(image, row.place)
    return problems
