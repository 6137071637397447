"""Images with their reports, read from annotation files of the reference and R2Gen and from anyone's tables.

The reference's form is ``{"annotations": [{"image_id": "<file stem>", "caption": "<report>"}, ...]}``. An
annotation may carry a third key, ``"split"``; without it, it belongs to the split ``"train"``, so that the
reference's own files are training data as they are. A fourth, ``"study_id"``, names the examination that the
image was taken in; without it, each image is an examination of its own. Further keys, such as ``"view"``,
are for people. R2Gen's form, ``{"train": [{"id": "<study>", "report": ..., "image_path": ["a/0.png", ...]},
...], ...}``, is read as one annotation for each image.
"""

from __future__ import annotations

import copy
import marshal
import sys
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from xraygpt.common.errors import DataError, MissingFileError, did_you_mean, summarise
from xraygpt.common.files import is_missing
from xraygpt.common.paths import leads_outside
from xraygpt.common.tables import SPLITS, Row, normalise_split, read_table
from xraygpt.datasets.datasets.images import ImageStore

ANNOTATION_FILE = "filter_cap.json"
WITHOUT_REPORTS = "test"
"""The split of images that nothing can be learnt from, and the only one whose images may lack a report."""


class Annotation(NamedTuple):
    """One image and its report."""

    image_id: str
    caption: str
    split: str
    study_id: str
    place: str
    """File and position, for messages: ``filter_cap.json: row [3]``."""
    columns: Mapping[str, str] = {}
    """What else the file says of the image (``view``, ``sex``, ...): subgroups of an evaluation."""


class Annotations(Sequence[Annotation]):
    """Annotations packed into one block of memory, each unpacked when it is asked for.

    Loading processes read the block where it is. A list of objects would be copied into every one of them,
    since counting references to an object writes to the memory that it lies in.
    """

    def __init__(self, rows: Iterable[Annotation]) -> None:
        self._packed, self._starts = bytearray(), array("q", [0])
        self._splits: list[str] = []
        add, end, split = self._packed.extend, self._starts.append, self._splits.append
        for row in rows:
            add(marshal.dumps((*row[:5], dict(row.columns))))
            end(len(self._packed))
            split(sys.intern(row.split))
        self._numbers: Sequence[int] = range(len(self._splits))

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        """Return an annotation; of a slice, `Annotations` that share this block."""
        if isinstance(index, slice):
            return self._part(self._numbers[index])
        number = self._numbers[index]
        return Annotation._make(marshal.loads(self._packed[self._starts[number] : self._starts[number + 1]]))

    def splits(self) -> list[str]:
        """Return the names of the splits there are, sorted."""
        return sorted({self._splits[number] for number in self._numbers})

    def of_split(self, split: str) -> Annotations:
        """Return the annotations of one split, which share this block."""
        return self._part(array("q", (number for number in self._numbers if self._splits[number] == split)))

    def _part(self, numbers: Sequence[int]) -> Annotations:
        part = copy.copy(self)
        part._numbers = numbers
        return part


class AnnotationDicts(Sequence[dict[str, str]]):
    """Annotations as LAVIS' data sets have them: a dict for each, made when it is asked for."""

    def __init__(self, rows: Sequence[Annotation]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return AnnotationDicts(self._rows[index])
        image_id, caption, split, study_id, _, columns = self._rows[index]
        return {**columns, "image_id": image_id, "caption": caption, "split": split, "study_id": study_id}


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


OWN = Columns()
R2GEN = Columns(image="image_path", caption="report", study_id="id")


def read_annotations(*paths: Path) -> Annotations:
    """Read annotation files, of the reference's form or of R2Gen's, joined in their order.

    Only images of the split ``test`` may come without a report; theirs is "".

    Raises:
        MissingFileError: no such file.
        DataError: not JSON, or not of these forms; names the file, the row and the key.
    """

    def rows() -> Iterator[Annotation]:
        for path in paths:
            row, problems, without = None, list[str](), list[str]()
            for row in _scan(path, problems):
                if not is_missing(row.caption):
                    yield row
                elif row.split == WITHOUT_REPORTS:
                    yield row._replace(caption="")
                else:
                    without.append(f"{row.place}: the report is missing")
            if problems or without:
                raise DataError(summarise("unusable annotations", problems + without))
            if row is None:
                raise DataError(f"{path}: the list of annotations is empty")

    return Annotations(rows())


def scan_annotations(path: Path) -> tuple[Annotations, list[str]]:
    """Return the usable rows of an annotation file and what is wrong with each of the others.

    Raises:
        MissingFileError: no such file.
        DataError: it is not JSON, or holds no list of annotations.
    """
    problems: list[str] = []
    return Annotations(_scan(path, problems)), problems


def _scan(path: Path, problems: list[str]) -> Iterator[Annotation]:
    if not path.is_file():
        raise MissingFileError(
            f"missing file: annotations of a data set\n  expected at: {path} (put it there, or set the data "
            'set\'s build_info.storage)\n  its form:    {"annotations": [{"image_id": ..., "caption": ...}]}'
        )
    for row in read_table(path, each=R2GEN.image):
        columns = R2GEN if row.has(R2GEN.image) and not row.has(OWN.image) else OWN
        annotation = _annotation(row, columns)
        if problem := _unusable(row, columns, annotation):
            problems.append(f"{row.place}: {problem}")
        else:
            yield annotation


def _unusable(row: Row, columns: Columns, annotation: Annotation) -> str | None:
    needed = columns.needed()
    for name in needed:
        if not row.has(name):
            there = ", ".join([*row.values, *row.nested]) or "none"
            return f'the key "{name}" is missing (there are: {there})'
    for name in (*needed, "split", "study_id") if row.nested else ():
        if name in row.nested:
            return f'"{name}" must be a text or a number, not {row.nested[name]}'
    if not annotation.image_id:
        return f'"{columns.image}" must name an image, not "{row.values[columns.image]}"'
    return None


def read_annotation_tables(paths: Sequence[Path], columns: Columns, images: ImageStore | None) -> Annotations:
    """Read the annotations of all splits from tables (see `xraygpt.common.tables`), joined in their order.

    Args:
        images: where the images have to be; None if they are not asked for.

    Raises:
        MissingFileError: a table is absent.
        DataError: a table cannot be read or has no such columns, or rows cannot be used; these are all
            counted, and the first of each kind are named by their lines.
    """
    missing: list[str] = []

    def rows() -> Iterator[Annotation]:
        for path in paths:
            there: dict[str, None] = {}
            nested: dict[str, str] = {}
            for row in read_table(path, each=columns.image):
                there.update(dict.fromkeys(row.values))
                for name, what in row.nested.items():
                    nested.setdefault(name, f"{row.place}: '{name}' has to be a text, not {what}")
                annotation = _annotation(row, columns)
                yield annotation._replace(caption=annotation.caption.strip())
            missing.extend(nested[name] for name in columns.needed() if name in nested)
            missing.extend(_missing_columns(path, columns.needed(), {**there, **nested}))

    annotations = Annotations(rows())
    if missing:
        raise DataError("\n".join(missing))
    problems = _problems(annotations, images, with_captions=columns.caption is not None)
    if problems:
        listed = "\n".join(summarise(what, places) for what, places in problems.items())
        raise DataError(f"{', '.join(map(str, paths))}: rows cannot be used\n{listed}")
    return annotations


def annotations_without_reports(images: ImageStore) -> Annotations:
    """Return an annotation without a report for each image of a store.

    Raises:
        DataError: there is none.
    """
    names = images.image_ids()
    if not names:
        raise DataError(f"{images}: no images in or below it")
    return Annotations(Annotation(name, "", WITHOUT_REPORTS, name, images.place(name)) for name in names)


def _annotation(row: Row, columns: Columns) -> Annotation:
    image, study, split = columns.image, columns.study_id or "study_id", columns.split or "split"
    names = (image, study, split, columns.caption)
    others = {name: value for name, value in row.values.items() if name not in names}
    image_id = _known(row, image)
    study_id = _known(row, study) or image_id
    if columns.caption is None:
        return Annotation(image_id, "", WITHOUT_REPORTS, study_id, row.place, others)
    caption = row.values.get(columns.caption, "")
    named = normalise_split(_known(row, split).lower() or "train")
    return Annotation(image_id, caption, named, study_id, row.place, others)


def _known(row: Row, column: str) -> str:
    """Return the text of a cell, "" where it is missing."""
    text = row.values.get(column)
    return "" if text is None or is_missing(text) else text.strip()


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
    annotations: Sequence[Annotation], images: ImageStore | None, with_captions: bool
) -> dict[str, list[str]]:
    """Return what is wrong -> the rows it is wrong in."""
    problems: dict[str, list[str]] = defaultdict(list)
    first: dict[str, int] = {}
    for number, row in enumerate(annotations):
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
            problems["images are named twice"].append(
                f"{named} (before at {annotations[first[image]].place})"
            )
        first.setdefault(image, number)
    return problems
