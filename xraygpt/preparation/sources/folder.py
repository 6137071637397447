"""Anybody's own collection: images in a folder, and a table that names them and holds the reports.

The reports may be in a second table, as in the copy of IU X-ray that most people have:
``indiana_reports.csv`` has a row for each study, ``indiana_projections.csv`` one for each image, and ``uid``
joins them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from xraygpt.common.errors import ConfigError, DataError, summarise
from xraygpt.common.files import is_missing
from xraygpt.common.paths import leads_outside
from xraygpt.common.tables import ENDINGS, SPLITS, Row, check_columns, normalise_split, read_table
from xraygpt.preparation.sources.archives import printable
from xraygpt.preparation.sources.names import image_ids
from xraygpt.preparation.sources.sections import split_report
from xraygpt.preparation.study import Picture, Study, Unusable

AGREED = ("findings", "impression", "report", "patient")
"""What the rows of a study must not contradict each other in; a row may leave it empty."""


@dataclass(frozen=True, slots=True)
class FolderColumns:
    """Names of columns. One that is named here has to be in the table."""

    image: str = "image"
    """Path of the image file; in JSON also a list of the paths of a study's images."""
    findings: str | None = None
    """None is ``findings``, if the table has it and `report` is not named."""
    impression: str | None = None
    """None is ``impression``, if the table has it and `report` is not named."""
    report: str | None = None
    """The whole report in one column, see `split_report`; in place of `findings` and `impression`."""
    study: str | None = None
    """Images of one study share a report and stay in one split. None is ``study_id``, if the table has it;
    otherwise each image is a study of its own, or each row of a joined table of reports."""
    patient: str | None = None
    """None is ``patient_id``, if the table has it."""
    split: str | None = None
    """``train``, ``val`` (or ``validate``) and ``test``. None is ``split``, if the table has it; otherwise
    splits are drawn."""
    view: str | None = None
    """None is ``view``, if the table has it."""

    def __post_init__(self) -> None:
        if self.report and (self.findings or self.impression):
            raise ConfigError("the column of the report holds findings and impression; name it or them")

    def resolve(self, there: Collection[str], place: str) -> FolderColumns:
        """Return the columns to read, of those that are there; None is then a column that is not used.

        Raises:
            DataError: a named column is absent, or there is no column with any text.
        """
        named = {field: name for field, name in asdict(self).items() if name is not None}
        check_columns(place, there, named.values())
        texts = () if self.report else ("findings", "impression")
        usual = {name: name for name in (*texts, "split", "view")}
        usual |= {"study": "study_id", "patient": "patient_id"}
        found = {field: name for field, name in usual.items() if name in there} | named
        if not {"findings", "impression", "report"} & found.keys():
            raise DataError(
                f"{place}: no column with reports: neither 'findings' nor 'impression' is there; name others "
                "for them or one for the whole report, or add the table that has them by --join (there are: "
                f"{', '.join(there)})"
            )
        return replace(self, **found)

    def used(self) -> list[str]:
        """Return the columns that are named."""
        return [name for name in asdict(self).values() if name]

    def value(self, row: Row, field: str) -> str:
        """Return what a row says in the column of `field`, without blanks around it; "" if there is none."""
        column = getattr(self, field)
        text = row.values[column].strip() if column else ""
        return "" if is_missing(text) else text

    def image_of(self, row: Row) -> str:
        """Return the path of a row's image, without ``./``; "" if it names none."""
        value = self.value(row, "image")
        return str(PurePosixPath(value)) if value else ""

    def study_of(self, row: Row) -> str:
        """Return the name of a row's study; where there is no column for it, or no name, the image's path."""
        return self.value(row, "study") or self.image_of(row)

    def split_of(self, row: Row) -> str:
        """Return the split that a row names, as it is called here."""
        return normalise_split(self.value(row, "split").lower())


class Join(NamedTuple):
    """A second table."""

    table: Path
    on: str
    """The column that both tables have, such as ``uid``; each image has one row of reports."""


class FolderSource:
    """Images and a CSV, TSV, JSON Lines or JSON table with a row for each image."""

    name = "folder"

    def __init__(
        self,
        table: Path,
        images: Path | None = None,
        columns: FolderColumns | None = None,
        where: Mapping[str, str] | None = None,
        join: Join | None = None,
    ) -> None:
        """Take note of where things are; nothing is read yet.

        Args:
            table: see `read_table` for its forms; it is held in memory.
            images: the folder that the table's paths count from; None is the table's own.
            columns: None are the usual names, see `FolderColumns`.
            where: column -> value, capitals or not; only rows that have all of them are used, e.g.
                ``{"view": "Frontal"}``.
            join: a second table, with what `table` lacks; of a column that both have, `table`'s counts.
        """
        self.table = table
        self.images = table.parent if images is None else images
        self.columns = columns or FolderColumns()
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
        judged = [(row, self._reason_to_leave_out(row)) for row in rows]
        if all(reason for _, reason in judged):
            raise DataError(f"{self.table}: no row has {self._wish()}; {self._values_there(rows)}")
        _check_splits(self.table, columns, [row for row, reason in judged if not reason])

        named: dict[str, Row] = {}
        wanted: dict[str, list[Row]] = defaultdict(list)
        left_out: dict[str, list[tuple[Row, str]]] = defaultdict(list)
        for row in (row for row, reason in judged if not reason):
            path = columns.image_of(row)
            if not path:
                unusable.append(_refused(row, "names no image"))
            elif path in named:
                unusable.append(_refused(row, f"its image is that of {named[path].position}"))
            else:
                named[path] = row
                wanted[columns.study_of(row)].append(row)
        for row, reason in ((row, reason) for row, reason in judged if reason):
            path, study = columns.image_of(row), columns.study_of(row)
            if path and path not in named and study in wanted:
                left_out[study].append((row, reason))
            else:
                unusable.append(_refused(row, reason))

        # Of all rows, so that an image has the same id whichever view is asked for.
        ids = image_ids(path for row in rows if (path := columns.image_of(row)))
        problems = {path: problem for path in named if (problem := _file_problem(self.images, path))}
        studies = [
            _study(columns, self.images, ids, problems, group, left_out[name])
            for name, group in wanted.items()
        ]
        if not any(isinstance(study, Study) and study.pictures for study in studies):
            reasons = [f"'{printable(path)}': {problem}" for path, problem in problems.items()]
            entries = [*unusable, *(study for study in studies if isinstance(study, Unusable))]
            reasons += [f"{entry.place}: {entry.reason}" for entry in entries]
            raise DataError(
                f"{self.table}: none of its images can be used. Is {self.images} the folder that its paths "
                f"count from, and '{columns.image}' the column that names files? Or are they named in "
                f"another table (--join)?\n{summarise('problems', reasons)}{self._hint(rows[0].values)}"
            )
        yield from unusable
        yield from studies

    def _read(self) -> tuple[FolderColumns, list[Row], list[Unusable]]:
        """Return the columns, the rows, joined where there is a second table, and rows without a partner."""
        first = self._first_row(self.table)
        there = [*first.values, *first.nested]
        if self.join is not None:
            other = self._first_row(self.join.table)
            for row in (first, other):
                check_columns(row.place, row.values, [self.join.on])
            there += [*other.values, *other.nested]
        try:
            columns = self.columns.resolve(there, first.place)
        except DataError as error:
            raise DataError(f"{error}{self._hint(there)}") from error
        needed = [*columns.used(), *self.where]
        if self.join is None:
            return columns, list(read_table(self.table, needed, columns.image)), []
        check_columns(first.place, there, self.where)
        needed.append(self.join.on)
        read = [
            list(
                read_table(row.file, [n for n in needed if n in row.values or n in row.nested], columns.image)
            )
            for row in (first, other)
        ]
        images, reports = read if columns.image in first.values else reversed(read)
        texts = {columns.findings, columns.impression, columns.report} - {None}
        if columns.study is None and texts <= reports[0].values.keys():
            columns = replace(columns, study=self.join.on)
        return columns, *_joined(images, reports, self.join.on, self.table)

    def _first_row(self, path: Path) -> Row:
        row = next(read_table(path, each=self.columns.image), None)
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

    def _reason_to_leave_out(self, row: Row) -> str:
        for column, wanted in self.where.items():
            value = row.values[column].strip()
            if value.casefold() != wanted.strip().casefold():
                return f"{column} is '{value}'"
        return ""

    def _wish(self) -> str:
        return " and ".join(f"{column}={wanted}" for column, wanted in self.where.items())

    def _values_there(self, rows: Sequence[Row]) -> str:
        parts = []
        for column in self.where:
            values = sorted({row.values[column].strip() for row in rows})
            more = ", ..." if len(values) > 10 else ""
            parts.append(f"{column} is one of {', '.join(values[:10])}{more}")
        return "; ".join(parts)


def _joined(
    images: Sequence[Row], reports: Sequence[Row], on: str, preferred: Path
) -> tuple[list[Row], list[Unusable]]:
    """Put what the row of a report says beside each row of an image.

    Args:
        preferred: the table whose value counts where both have a column.
    """
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
        if is_missing(key) or key not in partners:
            reason = (
                f"has no {on}" if is_missing(key) else f"no row of {reports[0].file.name} has its {on}, {key}"
            )
            unusable.append(_refused(row, reason))
            continue
        joined.add(key)
        both = sorted((partners[key], row), key=lambda row: row.file == preferred)
        rows.append(row._replace(values=both[0].values | both[1].values))
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


def _study(
    columns: FolderColumns,
    folder: Path,
    ids: Mapping[str, str],
    problems: Mapping[str, str],
    rows: Sequence[Row],
    left_out: Sequence[tuple[Row, str]],
) -> Study | Unusable:
    agreed: dict[str, str] = {}
    for field in AGREED:
        # Rows may be wrapped differently: what counts is the words.
        texts = {" ".join(text.split()): text for row in rows if (text := columns.value(row, field))}
        if len(texts) > 1:
            lines = ", ".join(row.position for row in rows[:5])
            return Unusable(printable(columns.study_of(rows[0])), f"its rows differ in {field} ({lines})")
        agreed[field] = next(iter(texts.values()), "")
    if columns.report:
        sections = split_report(agreed["report"])
    else:
        sections = {
            name: " ".join(agreed[name].split()) for name in ("findings", "impression") if agreed[name]
        }
    paths = [(columns.image_of(row), columns.value(row, "view")) for row in rows]
    skipped = {ids[columns.image_of(row)]: reason for row, reason in left_out}
    return Study(
        study_id=columns.value(rows[0], "study") or ids[paths[0][0]],
        sections=sections,
        pictures=tuple(
            Picture(ids[path], folder / path, view) for path, view in paths if path not in problems
        ),
        patient_id=agreed["patient"],
        split=columns.split_of(rows[0]) if columns.split else None,
        skipped_pictures=skipped | {ids[path]: problems[path] for path, _ in paths if path in problems},
    )


def _check_splits(path: Path, columns: FolderColumns, rows: Sequence[Row]) -> None:
    if not columns.split:
        return
    unknown = [
        f"{row.place}: '{columns.value(row, 'split')}'" for row in rows if columns.split_of(row) not in SPLITS
    ]
    if unknown:
        raise DataError(f"{path}: " + summarise(f"splits are none of {', '.join(SPLITS)}", unknown))
    groups: dict[str, Callable[[Row], str]] = {
        "studies": columns.study_of,
        "patients": lambda row: columns.value(row, "patient"),
    }
    for what, name_of in groups.items():
        splits: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            splits[name_of(row)].add(columns.split_of(row))
        torn = [
            f"{name}: {', '.join(sorted(found))}" for name, found in splits.items() if name and len(found) > 1
        ]
        if torn:
            raise DataError(f"{path}: " + summarise(f"{what} are in more than one split", torn))
