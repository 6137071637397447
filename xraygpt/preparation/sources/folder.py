"""Anybody's own collection: images in a folder, and a table that names them and holds the reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from xraygpt.common.errors import DataError
from xraygpt.common.tables import Row
from xraygpt.datasets.datasets.annotations import summarise
from xraygpt.preparation.sources.folder_images import FolderImages
from xraygpt.preparation.sources.folder_table import (
    FolderColumns,
    FolderTable,
    image_of,
    read_folder_table,
    split_of,
    study_of,
)
from xraygpt.preparation.sources.members import printable
from xraygpt.preparation.sources.report_text import split_report
from xraygpt.preparation.study import Picture, Study, Unusable

AGREED = ("findings", "impression", "report", "patient")
"""What the rows of a study must not contradict each other in; a row may leave it empty."""


class FolderSource:
    """Images and a CSV, TSV, JSON Lines or JSON table with a row for each image."""

    name = "folder"

    def __init__(
        self,
        table: Path,
        images: Path | None = None,
        columns: FolderColumns | None = None,
        where: Mapping[str, str] | None = None,
    ) -> None:
        """Take note of where things are; nothing is read yet.

        Args:
            table: see `read_table` for its forms; it is held in memory.
            images: the folder that the table's paths count from; None is the table's own.
            columns: None are the usual names, see `FolderColumns`.
            where: column -> value; only rows that have it are used, e.g. ``{"view": "Frontal"}``.
        """
        self.table = table
        self.images = table.parent if images is None else images
        self.columns = columns or FolderColumns()
        self.where = dict(where or {})

    def studies(self) -> Iterator[Study | Unusable]:
        """Yield the rows that give no study, then the studies in the order of their first rows.

        An image that is not asked for (`where`), absent or outside of the folder is among its study's
        ``skipped_pictures``. A study whose rows contradict each other comes as `Unusable`.

        Raises:
            MissingFileError, DataError: see `read_folder_table`; or none of the images is there.
        """
        table = read_folder_table(self.table, self.columns, self.where)
        grouped = _Grouped(table)
        # Of all rows, so that an image has the same id whichever view is asked for.
        images = FolderImages(self.images, (image_of(table.columns, row) for row in table.all_rows()))
        studies = [
            _study(table, images, rows, grouped.left_out.get(name, []))
            for name, rows in grouped.wanted.items()
        ]
        if not any(isinstance(study, Study) and study.pictures for study in studies):
            problems = list(_problems([*studies, *grouped.unusable]))
            raise DataError(
                f"{self.table}: none of its images can be used. Is {self.images} the folder that its paths "
                f"count from?\n{summarise('problems', problems)}"
            )
        yield from grouped.unusable
        yield from studies


class _Grouped:
    """The rows of a table by study."""

    def __init__(self, table: FolderTable) -> None:
        self.columns = table.columns
        self.wanted: dict[str, list[Row]] = defaultdict(list)
        self.left_out: dict[str, list[tuple[Row, str]]] = defaultdict(list)
        """Rows that were not asked for, of studies that have wanted ones."""
        self.unusable: list[Unusable] = []
        named: dict[str, Row] = {}
        for row in table.rows:
            path = image_of(self.columns, row)
            if not path:
                self._refuse(row, "names no image")
            elif path in named:
                self._refuse(row, f"its image is that of {named[path].position}")
            else:
                named[path] = row
                self.wanted[study_of(self.columns, row)].append(row)
        for row, reason in table.left_out:
            study = study_of(self.columns, row)
            path = image_of(self.columns, row)
            if path and path not in named and study in self.wanted:
                self.left_out[study].append((row, reason))
            else:
                self._refuse(row, reason)

    def _refuse(self, row: Row, reason: str) -> None:
        self.unusable.append(Unusable(f"{row.file.name}: {row.position}", reason))


def _study(
    table: FolderTable, images: FolderImages, rows: Sequence[Row], left_out: Sequence[tuple[Row, str]]
) -> Study | Unusable:
    columns = table.columns
    agreed: dict[str, str] = {}
    for field in AGREED:
        # Rows may be wrapped differently: what counts is the words.
        texts = {" ".join(text.split()): text for row in rows if (text := columns.value(row, field))}
        if len(texts) > 1:
            lines = ", ".join(row.position for row in rows[:5])
            return Unusable(printable(study_of(columns, rows[0])), f"its rows differ in {field} ({lines})")
        agreed[field] = next(iter(texts.values()), "")
    pictures: list[Picture] = []
    skipped = {images.ids[image_of(columns, row)]: reason for row, reason in left_out}
    for row in rows:
        path = image_of(columns, row)
        problem = images.problem(path)
        if problem:
            skipped[images.ids[path]] = problem
        else:
            view = columns.value(row, "view")
            pictures.append(Picture(images.ids[path], images.folder / path, view))
    return Study(
        study_id=columns.value(rows[0], "study") or images.ids[image_of(columns, rows[0])],
        sections=_sections(agreed, split=bool(columns.report)),
        pictures=tuple(pictures),
        patient_id=agreed["patient"],
        split=split_of(columns, rows[0]) if columns.split else None,
        skipped_pictures=skipped,
    )


def _problems(entries: Iterable[Study | Unusable]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, Unusable):
            yield f"{entry.place}: {entry.reason}"
        else:
            yield from (f"{image}: {reason}" for image, reason in entry.skipped_pictures.items())


def _sections(texts: Mapping[str, str], split: bool) -> dict[str, str]:
    if split:
        return split_report(texts["report"])
    return {name: " ".join(texts[name].split()) for name in ("findings", "impression") if texts[name]}
