"""The table of anybody's own collection: its columns, the rows that are wanted, what must not be in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from xraygpt.common.errors import ConfigError, DataError
from xraygpt.common.tables import Row, check_columns, read_table
from xraygpt.datasets.datasets.annotations import SPLITS, normalise_split, summarise


@dataclass(frozen=True, slots=True)
class FolderColumns:
    """Names of columns. One that is named here has to be in the table."""

    image: str = "image"
    """Path of the image file."""
    findings: str | None = None
    """None is ``findings``, if the table has it and `report` is not named."""
    impression: str | None = None
    """None is ``impression``, if the table has it and `report` is not named."""
    report: str | None = None
    """The whole report in one column, see `split_report`; in place of `findings` and `impression`."""
    study: str | None = None
    """Images of one study share a report and stay in one split. None is ``study_id``, if the table has it;
    otherwise each image is a study of its own."""
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

    def resolve(self, there: Collection[str], place: str) -> ResolvedColumns:
        """Return the columns to read, of those that are there.

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
                f"for them, or one for the whole report (there are: {', '.join(there)})"
            )
        return ResolvedColumns(**found)


@dataclass(frozen=True, slots=True)
class ResolvedColumns:
    """Names of columns that are in the table; "" for those that are not used."""

    image: str
    findings: str = ""
    impression: str = ""
    report: str = ""
    study: str = ""
    patient: str = ""
    split: str = ""
    view: str = ""

    def value(self, row: Row, field: str) -> str:
        """Return what a row says in the column of `field`, without blanks around it; "" if there is none."""
        column = getattr(self, field)
        return row.values[column].strip() if column else ""


@dataclass(frozen=True, slots=True)
class FolderTable:
    """The rows of a table."""

    columns: ResolvedColumns
    rows: list[Row]
    left_out: list[tuple[Row, str]]
    """Rows that were not asked for, and why: ``view is 'Lateral'``."""

    def all_rows(self) -> Iterator[Row]:
        """Yield all rows, wanted or not."""
        yield from self.rows
        yield from (row for row, _ in self.left_out)


def read_folder_table(path: Path, columns: FolderColumns, where: Mapping[str, str]) -> FolderTable:
    """Read and check a table.

    Args:
        where: column -> the value of the rows that are wanted, capitals or not; all have to hold.

    Raises:
        MissingFileError, DataError: no such table, a column is absent, no row is wanted, a split is unknown,
            or a study or patient is in two splits.
    """
    first = next(read_table(path), None)
    if first is None:
        raise DataError(f"{path}: the table has no rows")
    resolved = columns.resolve(first.values, first.place)
    needed = [name for name in asdict(resolved).values() if name]
    table = FolderTable(resolved, [], [])
    for row in read_table(path, [*needed, *where]):
        reason = _reason_to_leave_out(row, where)
        if reason:
            table.left_out.append((row, reason))
        else:
            table.rows.append(row)
    if not table.rows:
        raise DataError(f"{path}: no row has {_wish(where)}; {_values_there(table.left_out, where)}")
    _check_splits(path, table)
    return table


def study_of(columns: ResolvedColumns, row: Row) -> str:
    """Return the name of a row's study: without a column for it, or in an empty cell, the image's path."""
    return columns.value(row, "study") or image_of(columns, row)


def image_of(columns: ResolvedColumns, row: Row) -> str:
    """Return the path of a row's image, without ``./``; "" if it names none."""
    value = columns.value(row, "image")
    return str(PurePosixPath(value)) if value else ""


def split_of(columns: ResolvedColumns, row: Row) -> str:
    """Return the split that a row names, as it is called here."""
    return normalise_split(columns.value(row, "split").lower())


def _reason_to_leave_out(row: Row, where: Mapping[str, str]) -> str:
    for column, wanted in where.items():
        value = row.values[column].strip()
        if value.casefold() != wanted.strip().casefold():
            return f"{column} is '{value}'"
    return ""


def _wish(where: Mapping[str, str]) -> str:
    return " and ".join(f"{column}={wanted}" for column, wanted in where.items())


def _values_there(left_out: Sequence[tuple[Row, str]], where: Mapping[str, str]) -> str:
    parts = []
    for column in where:
        values = sorted({row.values[column].strip() for row, _ in left_out})
        more = ", ..." if len(values) > 10 else ""
        parts.append(f"{column} is one of {', '.join(values[:10])}{more}")
    return "; ".join(parts)


def _check_splits(path: Path, table: FolderTable) -> None:
    columns = table.columns
    if not columns.split:
        return
    unknown = [
        f"{row.place}: '{columns.value(row, 'split')}'"
        for row in table.rows
        if split_of(columns, row) not in SPLITS
    ]
    if unknown:
        raise DataError(f"{path}: " + summarise(f"splits are none of {', '.join(SPLITS)}", unknown))
    for what, name_of in _groups(columns):
        torn = list(_in_several_splits(table, name_of))
        if torn:
            raise DataError(f"{path}: " + summarise(f"{what} are in more than one split", torn))


def _groups(columns: ResolvedColumns) -> Iterator[tuple[str, Callable[[Row], str]]]:
    yield "studies", lambda row: study_of(columns, row)
    if columns.patient:
        yield "patients", lambda row: columns.value(row, "patient")


def _in_several_splits(table: FolderTable, name_of: Callable[[Row], str]) -> Iterator[str]:
    splits: dict[str, set[str]] = defaultdict(set)
    for row in table.rows:
        splits[name_of(row)].add(split_of(table.columns, row))
    for name, found in splits.items():
        if name and len(found) > 1:
            yield f"{name}: {', '.join(sorted(found))}"
