"""Reading anyone's own tables of images and reports, by the names of their columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xraygpt.common.errors import DataError, did_you_mean
from xraygpt.common.paths import leads_outside
from xraygpt.common.tables import Row, read_table
from xraygpt.datasets.datasets.annotations import SPLITS, Annotation, normalise_split, summarise
from xraygpt.datasets.datasets.images import ImageStore

WITHOUT_REPORTS = "test"
"""The split of images that nothing can be learnt from."""


@dataclass
class Columns:
    """Which column (in JSON: which key) of a table holds what."""

    image: str = "image_id"
    """The path of the image's file below the folder of the images, with its suffix or without."""
    caption: str | None = "caption"
    """The report. null: the table names images to write reports for; they all are of the split ``test``."""
    split: str | None = None
    """``train``, ``val`` (also ``valid``, ``validate``, ``validation``) or ``test``, in any case. If this is
    not set, the column ``split`` is read if there is one; without such a column all is for training."""
    study_id: str | None = None
    """The examination that the image was taken in. If this is not set, the column ``study_id`` is read if
    there is one; without such a column each image is an examination of its own."""

    def __post_init__(self) -> None:
        if self.caption is None and self.split is not None:
            raise ValueError(
                "images without reports (caption: null) are all of the split test; leave split out"
            )

    def needed(self) -> list[str]:
        """Return the columns that have to be there."""
        return [name for name in (self.image, self.caption, self.split, self.study_id) if name is not None]


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
        for row in read_table(path):
            there.update(dict.fromkeys(row.values))
            annotations.append(_annotation(row, columns))
        missing += _missing_columns(path, columns.needed(), there)
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
    image_id = row.values.get(columns.image, "").strip()
    study_id = row.values.get(columns.study_id or "study_id", "").strip() or image_id
    others = {name: value for name, value in row.values.items() if name not in names}
    if columns.caption is None:
        return Annotation(image_id, "", WITHOUT_REPORTS, study_id, row.place, others)
    split = row.values.get(columns.split or "split", "train").strip().lower()
    caption = row.values.get(columns.caption, "").strip()
    return Annotation(image_id, caption, normalise_split(split), study_id, row.place, others)


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
        if with_captions and not row.caption:
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
