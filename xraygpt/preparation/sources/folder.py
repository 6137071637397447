"""Anybody's own collection: images in a folder, and a table that names them and holds the reports.

The reports may be in a second table, as in the copy of IU X-ray that most people have:
``indiana_reports.csv`` has a row for each study, ``indiana_projections.csv`` one for each image, and ``uid``
joins them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from xraygpt.common.errors import ConfigError, DataError, summarise
from xraygpt.common.files import is_missing
from xraygpt.common.paths import leads_outside
from xraygpt.common.tables import ENDINGS, SPLITS, Row, check_columns, normalise_split, read_table
from xraygpt.preparation.sources.files import image_ids, printable
from xraygpt.preparation.sources.sections import split_report
from xraygpt.preparation.study import Picture, Study, Unusable, in_several_splits

USUAL_COLUMNS = {
    **{name: name for name in ("image", "findings", "impression", "split", "view")},
    "study": "study_id",
    "patient": "patient_id",
}
"""Field -> the column that is read where none is named. The field ``report``, which holds findings and
impression in one piece (see `split_report`), is read in place of both, if a column is named for it."""
TEXTS = ("findings", "impression", "report")
AGREED = (*TEXTS, "patient")
"""What the rows of a study must not contradict each other in; a row may leave it empty."""


class Join(NamedTuple):
    """A second table."""

    table: Path
    on: str
    """The column that both tables have, such as ``uid``; each image has one row of reports."""


class _Image:
    """What a row says of an image; "" for what it does not say."""

    def __init__(self, row: Row, columns: Mapping[str, str], where: Mapping[str, str]) -> None:
        self.row = row
        texts = {field: row.values[column].strip() for field, column in columns.items()}
        self.texts = {field: text for field, text in texts.items() if not is_missing(text)}
        """Field, as in `USUAL_COLUMNS` -> text."""
        self.path = str(PurePosixPath(self.texts["image"])) if "image" in self.texts else ""
        """Without ``./``."""
        self.study = self.texts.get("study") or self.path
        self.split = normalise_split(self.texts.get("split", "").lower())
        self.problem = ""
        """Why its file cannot be used."""
        self.left_out = ""
        """The first condition that it does not meet."""
        for name, wish in where.items():
            value = row.values[name].strip()
            if value.casefold() != wish.strip().casefold():
                self.left_out = self.left_out or f"{name} is '{value}'"


class FolderSource:
    """Images and a CSV, TSV, JSON Lines or JSON table with a row for each; read when it is asked for.

    Args:
        table: see `read_table` for its forms; it is held in memory.
        images: the folder that the table's paths count from; None is the table's own.
        columns: field -> name of its column, which has to be in the table; for other fields see
            `USUAL_COLUMNS`. In JSON an image may be a list of paths. Images of one study share a report and
            stay in one split; without ``study`` each image is a study of its own, or each row of a joined
            table of reports. Without ``split`` splits are drawn.
        where: column -> value, capitals or not; only rows that have all of them are used, e.g.
            ``{"view": "Frontal"}``.
        join: a second table, with what `table` lacks; of a column that both have, `table`'s counts.

    Raises:
        ConfigError: columns are named for the report in one piece and for its parts.
    """

    name = "folder"

    def __init__(
        self,
        table: Path,
        images: Path | None = None,
        columns: Mapping[str, str] | None = None,
        where: Mapping[str, str] | None = None,
        join: Join | None = None,
    ) -> None:
        self.table = table
        self.images = table.parent if images is None else images
        self.columns = dict(columns or {})
        if "report" in self.columns and {"findings", "impression"} & self.columns.keys():
            raise ConfigError("the column of the report holds findings and impression; name it or them")
        self.where = dict(where or {})
        self.join = join

    def studies(self) -> Iterator[Study | Unusable]:
        """Yield the rows that give no study, then the studies in the order of their first rows.

        An image that is not asked for (`where`), absent or outside of the folder is among its study's
        ``skipped_pictures``. A study whose rows contradict each other comes as `Unusable`.

        Raises:
            MissingFileError, DataError: no such table, a column is absent, no row is wanted, a split is
                unknown, a study or patient is in two splits, or none of the images is there.
        """
        columns, rows, unusable = self._read()
        images = [_Image(row, columns, self.where) for row in rows]
        wanted = [image for image in images if not image.left_out]
        if not wanted:
            wish = " and ".join(f"{column}={value}" for column, value in self.where.items())
            there = []
            for column in self.where:
                values = sorted({row.values[column].strip() for row in rows})
                more = ", ..." if len(values) > 10 else ""
                there.append(f"{column} is one of {', '.join(values[:10])}{more}")
            raise DataError(f"{self.table}: no row has {wish}; {'; '.join(there)}")
        if "split" in columns:
            _check_splits(self.table, wanted)

        named: dict[str, _Image] = {}
        groups: dict[str, list[_Image]] = defaultdict(list)
        for image in wanted:
            if not image.path:
                unusable.append(_refused(image.row, "names no image"))
            elif named.setdefault(image.path, image) is not image:
                unusable.append(_refused(image.row, f"its image is that of {named[image.path].row.position}"))
            else:
                image.problem = _file_problem(self.images, image.path)
                groups[image.study].append(image)
        for image in images:
            if image.left_out and image.path and image.path not in named and image.study in groups:
                groups[image.study].append(image)
            elif image.left_out:
                unusable.append(_refused(image.row, image.left_out))

        # Of all rows, so that an image has the same id whichever view is asked for.
        ids = image_ids(image.path for image in images if image.path)
        studies = [self._study(ids, group) for group in groups.values()]
        if not any(isinstance(study, Study) and study.pictures for study in studies):
            reasons = [f"'{printable(path)}': {named[path].problem}" for path in named if named[path].problem]
            entries = [*unusable, *(study for study in studies if isinstance(study, Unusable))]
            reasons += [f"{entry.place}: {entry.reason}" for entry in entries]
            raise DataError(
                f"{self.table}: none of its images can be used. Is {self.images} the folder that its paths "
                f"count from, and '{columns['image']}' the column that names files? Or are they named in "
                f"another table (--join)?\n{summarise('problems', reasons)}{self._hint(rows[0].values)}"
            )
        yield from unusable
        yield from studies

    def _study(self, ids: Mapping[str, str], group: Sequence[_Image]) -> Study | Unusable:
        images = [image for image in group if not image.left_out]
        agreed: dict[str, str] = {}
        for field in AGREED:
            # Rows may be wrapped differently: what counts is the words.
            texts = {" ".join(text.split()): text for image in images if (text := image.texts.get(field))}
            if len(texts) > 1:
                lines = ", ".join(image.row.position for image in images[:5])
                return Unusable(printable(images[0].study), f"its rows differ in {field} ({lines})")
            agreed[field] = next(iter(texts.values()), "")
        if "report" in self.columns:
            sections = split_report(agreed["report"])
        else:
            sections = {n: " ".join(agreed[n].split()) for n in ("findings", "impression") if agreed[n]}
        pictures: list[Picture] = []
        skipped: dict[str, str] = {}
        for image in sorted(group, key=lambda image: not image.left_out):
            if reason := image.left_out or image.problem:
                skipped[ids[image.path]] = reason
            else:
                view = image.texts.get("view", "")
                pictures.append(Picture(ids[image.path], self.images / image.path, view))
        name = images[0].texts.get("study") or ids[images[0].path]
        split = images[0].split or None
        return Study(name, sections, tuple(pictures), agreed["patient"], split, skipped)

    def _read(self) -> tuple[dict[str, str], list[Row], list[Unusable]]:
        """Return the columns, the rows, joined where there is a second table, and rows without a partner."""
        firsts = [self._first_row(table) for table in (self.table, *([self.join.table] if self.join else []))]
        if self.join is not None:
            for row in firsts:
                check_columns(row.place, row.values, [self.join.on])
        there = [name for row in firsts for name in (*row.values, *row.nested)]
        try:
            columns = self._resolve(there, firsts[0].place)
        except DataError as error:
            raise DataError(f"{error}{self._hint(there)}") from error
        check_columns(firsts[0].place, there, self.where)
        needed = {*columns.values(), *self.where, *([self.join.on] if self.join else [])}
        image = columns["image"]
        read = [
            list(read_table(row.file, [n for n in (*row.values, *row.nested) if n in needed], image))
            for row in firsts
        ]
        if self.join is None:
            return columns, read[0], []
        images, reports = read if image in firsts[0].values else reversed(read)
        texts = {columns[field] for field in TEXTS if field in columns}
        if "study" not in columns and texts <= reports[0].values.keys():
            columns["study"] = self.join.on
        return columns, *_joined(images, reports, self.join.on, self.table)

    def _resolve(self, there: Collection[str], place: str) -> dict[str, str]:
        """Return field -> column, of the columns that are there.

        Raises:
            DataError: a named column is absent, or there is no column with any text.
        """
        check_columns(place, there, {"image": "image", **self.columns}.values())
        parts = ("findings", "impression") if "report" in self.columns else ()
        usual = {f: name for f, name in USUAL_COLUMNS.items() if name in there and f not in parts}
        columns = usual | self.columns
        if not columns.keys() & TEXTS:
            raise DataError(
                f"{place}: no column with reports: neither 'findings' nor 'impression' is there; name others "
                "for them or one for the whole report, or add the table that has them by --join (there are: "
                f"{', '.join(there)})"
            )
        return columns

    def _first_row(self, path: Path) -> Row:
        row = next(read_table(path, each=self.columns.get("image", "image")), None)
        if row is None:
            raise DataError(f"{path}: the table has no rows")
        return row

    def _hint(self, there: Collection[str]) -> str:
        """Name the tables that lie beside this one and have a column of it, as a second one would."""
        lines = ""
        for path in sorted(self.table.parent.iterdir()) if self.join is None else ():
            if path.name.lower().removesuffix(".gz").endswith(ENDINGS) and path != self.table:
                try:
                    columns = self._first_row(path).values
                except DataError:
                    continue
                lines += "".join(
                    f"\n{path} has the column '{name}' too; to join it: --join {path} --on {name} "
                    f"(it has the columns {', '.join(columns)})"
                    for name in columns
                    if name in there
                )
        return lines


def _joined(
    images: Sequence[Row], reports: Sequence[Row], on: str, preferred: Path
) -> tuple[list[Row], list[Unusable]]:
    """Put what the row of a report says beside each row of an image; where both do, `preferred` counts."""
    unusable: list[Unusable] = []
    partners: dict[str, Row] = {}
    for row in reports:
        key = row.values[on].strip()
        if not is_missing(key) and partners.setdefault(key, row) is not row:
            raise DataError(
                f"{row.place}: {on} {key} is that of {partners[key].position}; join by one without repeats"
            )
    rows: list[Row] = []
    joined: set[str] = set()
    for row in images:
        key = row.values[on].strip()
        if is_missing(key):
            unusable.append(_refused(row, f"has no {on}"))
        elif key not in partners:
            unusable.append(_refused(row, f"no row of {reports[0].file.name} has its {on}, {key}"))
        else:
            joined.add(key)
            less, more = sorted((partners[key], row), key=lambda row: row.file == preferred)
            rows.append(row._replace(values=less.values | more.values))
    for key, row in partners.items():
        if key not in joined:
            unusable.append(_refused(row, f"no row of {images[0].file.name} has its {on}, {key}"))
    return rows, unusable


def _refused(row: Row, reason: str) -> Unusable:
    return Unusable(f"{row.file.name}: {row.position}", printable(reason))


def _file_problem(folder: Path, path: str) -> str:
    """Return why an image cannot be used, or "". A link may not lead out of the folder."""
    outside = leads_outside(path)
    if outside:
        return outside
    try:
        real = os.path.realpath(folder / path)
        if not os.path.isfile(real):
            return "no such file"
    except (OSError, ValueError):  # a report in the place of a name: too long, or with a zero byte
        return "no such file"
    inside = real.startswith(os.path.join(os.path.realpath(folder), ""))
    return "" if inside else "is a link that leads out of the images' folder"


def _check_splits(table: Path, images: Sequence[_Image]) -> None:
    """Raise a DataError if a split is unknown, or a study or patient is in several."""
    wrong = [image for image in images if image.split not in SPLITS]
    if wrong:
        unknown = [f"{image.row.place}: '{image.texts.get('split', '')}'" for image in wrong]
        raise DataError(f"{table}: " + summarise(f"splits are none of {', '.join(SPLITS)}", unknown))
    for field, what in (("study", "studies"), ("patient", "patients")):
        named = ((image.study if field == "study" else image.texts.get(field), image) for image in images)
        if torn := in_several_splits((name, image.split) for name, image in named if name):
            raise DataError(f"{table}: " + summarise(f"{what} are in more than one split", torn))
