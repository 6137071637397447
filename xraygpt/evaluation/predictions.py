"""Read the reports that a model has written, of this project or any other, beside their references."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.files import is_missing
from xraygpt.common.tables import Row, check_columns, read_objects, read_table

PREDICTIONS_FILES = "predictions*.jsonl"
"""What the output folder of a run is searched for: ``predictions.jsonl``, ``predictions_test.jsonl``."""
FRAMEWORKS = {"ms-swift": ("response", "labels"), "LLaMA-Factory": ("predict", "label")}
"""Whose files of predictions are known by their keys: those of the generated report and the reference."""
STUDY_COLUMN = "study_id"
PATIENT_COLUMNS = ("patient_id", "subject_id")
"""Usual names of the column of patients, the second of them MIMIC's; the first that there is counts."""
MOST_PROBLEMS = 20
"""How many of a file's problems are listed; of the others there is the number."""
NOT_KNOWN = "not known"
"""The group of those that have no value."""
MOST_BANDS = 8
"""Numbers that take more values than this are put into bands, at most as many."""
MOST_GROUPS = 50
NAMED = 5
"""How many images a message names."""
FEWEST_UNITS = 20
"""Of fewer patients or studies the percentile interval is noticeably too narrow."""
NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)(?:Y| years?)?")
"""A number, or an age as DICOM (``058Y``) or a person writes it."""


@dataclass(frozen=True, slots=True)
class PredictionColumns:
    """How a table calls what is needed of it."""

    image_id: str = "image_id"
    generated: str = "generated"
    reference: str = "reference"
    study_id: str = STUDY_COLUMN
    """It need not be there under its usual name: each image is a study of its own then."""
    patient_id: str | None = None
    """None for one of `PATIENT_COLUMNS`, if there is one. Under a name given here no row may lack one."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One image with its two reports."""

    image_id: str
    study_id: str
    reference: str
    generated: str
    """May be empty."""
    columns: Mapping[str, str]
    """All other columns: view, sex, age, ..."""
    patient_id: str = ""
    """"" where it is not known."""


def read_predictions(
    path: Path, columns: PredictionColumns | None = None, *, need_references: bool = True
) -> list[Prediction]:
    """Read a table of predictions (`xraygpt.common.tables`), also one that ms-swift or LLaMA-Factory wrote
    (`framework_rows`), or that of a run's folder (`predictions_file`).

    Args:
        columns: how the table calls its columns; None for the usual names.
        need_references: refuse rows without a reference; otherwise it is "" there. Some have to have one.

    Raises:
        MissingFileError: no such file.
        DataError: the table is none, lacks a column, is empty, names an image twice, or lacks ids or
            references; gives each line at fault.
    """
    columns = columns or PredictionColumns()
    path = predictions_file(path)
    names = sorted(filter(None, astuple(columns)))
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"the column '{twice[0]}' is named for two things")
    unusual = [name for name in (columns.study_id, columns.patient_id) if name not in (STUDY_COLUMN, None)]
    needed = [columns.image_id, columns.generated, columns.reference, *unusual]
    predictions: list[Prediction] = []
    problems: list[str] = []
    seen: dict[str, str] = {}
    try:
        named = framework_rows(path) if columns == PredictionColumns() else None
        for row in named or read_table(path, needed):
            predictions.append(_prediction(row, columns))
            problems += _problems(row, columns, seen, need_references)
    except DataError as error:
        if not problems:
            raise
        problems.append(str(error).removeprefix(f"{path}: "))
    patients: dict[str, set[str]] = {}
    for one in filter(lambda one: one.patient_id, predictions):
        patients.setdefault(one.study_id, set()).add(one.patient_id)
    problems += [
        f"the study '{study}' has rows of several patients ({', '.join(sorted(of_study)[:NAMED])})"
        for study, of_study in patients.items()
        if len(of_study) > 1
    ]
    without = sum(not row.reference for row in predictions)
    if predictions and without == len(predictions):
        raise DataError(f"{path}: there are no references ('{columns.reference}' is empty in every row)")
    if problems:
        number, message = len(problems), problems[0]
        if number > 1:
            message = "\n  ".join([f"{number} problems", *problems[:MOST_PROBLEMS]])
            message += f"\n  and {number - MOST_PROBLEMS} more" if number > MOST_PROBLEMS else ""
        if need_references and without:
            message += f"\n{without:,} of {len(predictions):,} rows have no reference; "
            message += "--skip-without-reference leaves them out"
        raise DataError(f"{path}: {message}")
    if not predictions:
        raise DataError(f"{path}: there are no predictions in it")
    return predictions


def framework_rows(path: Path) -> Iterable[Row] | None:
    """Return the rows of another framework's predictions under this project's names; None for other files.

    An image is called by its path below the folder that all images share, or by its line, as LLaMA-Factory
    names no images.

    Raises:
        DataError: a row is unlike the first, or is not JSON.
    """
    if path.suffix != ".jsonl" or not path.is_file():
        return None
    rows: list[Row] = []
    images: list[str] = []
    keys: tuple[str, str] | None = None
    for position, value in read_objects(path):
        keys = keys or next((pair for pair in FRAMEWORKS.values() if {*pair} <= value.keys()), None)
        if keys is None:
            return None
        check_columns(f"{path}: {position}", value, keys)
        generated, reference = (str(value[key] or "") for key in keys)
        rows.append(Row({"generated": generated, "reference": reference}, path, position))
        image = next(iter(value.get("images") or ()), None)
        image = image.get("path") if isinstance(image, Mapping) else image
        images += [image] if isinstance(image, str) else []
    if not images or len(images) < len(rows):
        ids = [row.position for row in rows]
    else:
        root = os.path.commonpath([os.path.dirname(os.path.abspath(image)) for image in images])
        ids = [os.path.relpath(os.path.splitext(image)[0], root) for image in images]
    return [
        row._replace(values={"image_id": name, **row.values}) for row, name in zip(rows, ids, strict=True)
    ]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 study``, ``1,200 studies``."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def predictions_file(path: Path) -> Path:
    """Return the table that `path` stands for: itself, or the one in a folder (`PREDICTIONS_FILES`).

    Raises:
        MissingFileError: a folder without predictions.
        DataError: a folder with predictions of several splits.
    """
    if not path.is_dir():
        return path
    files = sorted(path.glob(PREDICTIONS_FILES))
    if not files:
        raise MissingFileError(f"{path}: a folder without {PREDICTIONS_FILES}; name the table of predictions")
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise DataError(f"{path}: holds several tables of predictions ({names}); name one")
    return files[0]


def patient_column(names: Collection[str]) -> str | None:
    """Return which of the names of columns is a usual one for the patient."""
    return next((name for name in PATIENT_COLUMNS if name in names), None)


@dataclass(frozen=True, slots=True)
class Units:
    """What a bootstrap draws as a whole: patients where every report names its own, and studies otherwise."""

    name: str
    """``patient`` or ``study``."""
    ids: Sequence[str]
    """Of each report."""
    note: str
    """Why it is not the patients, though some are known, and whether there are too few; "" otherwise."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(set(self.ids))


def units_of(predictions: Sequence[Prediction]) -> Units:
    """Return what to draw when some of these reports are resampled."""
    patients = [row.patient_id for row in predictions]
    name = "patient" if all(patients) else "study"
    ids = patients if all(patients) else [row.study_id for row in predictions]
    notes = []
    if any(patients) and not all(patients):
        notes.append(f"the patients of {counted(patients.count(''), 'report')} are not known")
    if (count := len(set(ids))) < FEWEST_UNITS:
        few = "no interval and no test" if count == 1 else "intervals may be too narrow"
        notes.append(f"only {counted(count, name)}: {few}")
    return Units(name, ids, "; ".join(notes))


def with_patients(rows: Sequence[Prediction], others: Sequence[Prediction]) -> list[Prediction]:
    """Return a run with the patients that another one names for the same images, both in the same order."""
    pairs = zip(rows, others, strict=True)
    return [replace(row, patient_id=row.patient_id or other.patient_id) for row, other in pairs]


def check_same_task(
    a: Sequence[Prediction], b: Sequence[Prediction], names: tuple[str, str] = ("the first", "the second")
) -> None:
    """Raise a DataError where images, studies, known patients or references of two runs differ.

    Args:
        names: what the runs are called.
    """
    of_a, of_b = ({row.image_id: row for row in rows} for rows in (a, b))
    both = of_a.keys() & of_b.keys()
    problems = {
        f"of {names[0]} {{are}} not in {names[1]}": of_a.keys() - of_b.keys(),
        f"of {names[1]} {{are}} not in {names[0]}": of_b.keys() - of_a.keys(),
        "{have} another study": {i for i in both if of_a[i].study_id != of_b[i].study_id},
        "{have} another patient": {i for i in both if "" != of_a[i].patient_id != of_b[i].patient_id != ""},
        "{have} another reference": {
            i for i in both if of_a[i].reference.split() != of_b[i].reference.split()
        },
    }
    found = [_difference(what, images) for what, images in problems.items() if images]
    if found:
        raise DataError(
            f"{names[0]} and {names[1]} cannot be compared, they need the same images, studies, patients and "
            "references:" + "".join(f"\n  {problem}" for problem in found)
        )


def _difference(what: str, images: set[str]) -> str:
    one = len(images) == 1
    words = what.format(are="is" if one else "are", have="has" if one else "have")
    more = ", ..." if len(images) > NAMED else ""
    return f"{counted(len(images), 'image')} {words}: {', '.join(sorted(images)[:NAMED])}{more}"


def run_names(paths: Sequence[Path]) -> list[str]:
    """Return what runs are called: by their folder or file, and as many folders above as tell them apart.

    Those that nothing tells apart, for they are the same, are numbered.
    """
    parts = [(path.resolve() if path.is_dir() else path.resolve().with_suffix("")).parts for path in paths]
    for depth in range(1, max(map(len, parts))):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{each[-1]} ({number})" for number, each in enumerate(parts, 1)]


def group_by_column(predictions: Sequence[Prediction], column: str) -> dict[str, list[int]]:
    """Return the groups by the values of a column, or by bands of its numbers: name -> indices.

    Raises:
        DataError: no prediction has that column, or it has so many different values that groups say nothing.
    """
    known = list(dict.fromkeys(name for row in predictions for name in row.columns))
    check_columns("the predictions", known, [column])
    values = [row.columns.get(column, "").strip() for row in predictions]
    present = sorted({value for value in values if value})
    numbers = {value: float(match[1]) for value in present if (match := NUMBER.fullmatch(value))}
    all_numbers = len(numbers) == len(present)
    if all_numbers:
        present.sort(key=numbers.__getitem__)
    banded = all_numbers and len(present) > MOST_BANDS
    names = _bands(present, numbers) if banded else {value: value for value in present}
    groups: dict[str, list[int]] = {name: [] for name in names.values()}
    if len(groups) > MOST_GROUPS:
        raise DataError(
            f"subgroups by '{column}': there are {len(groups)} different values; {MOST_GROUPS} are the most"
        )
    for place, value in enumerate(values):
        groups.setdefault(names.get(value, NOT_KNOWN), []).append(place)
    return groups


def _bands(ordered: Sequence[str], numbers: Mapping[str, float]) -> dict[str, str]:
    """Return the band of each value; the bands' width is 1, 2 or 5 times a power of ten."""
    low, high = numbers[ordered[0]], numbers[ordered[-1]]
    exponent = math.floor(math.log10((high - low) / MOST_BANDS))
    widths = (step * 10.0**power for power in (exponent, exponent + 1) for step in (1, 2, 5))
    width = next(w for w in widths if math.floor(high / w) - math.floor(low / w) < MOST_BANDS)
    whole = all(number.is_integer() for number in numbers.values()) and width >= 1

    def band(number: float) -> str:
        # Rounded because 0.3 / 0.1 is a little less than 3.
        place = math.floor(round(number / width, 9))
        begin, end = place * width, (place + 1) * width
        return f"{begin:g} to {end - 1:g}" if whole else f"{begin:g} to below {end:g}"

    return {value: band(numbers[value]) for value in ordered}


def _prediction(row: Row, columns: PredictionColumns) -> Prediction:
    values = row.values
    image_id = values[columns.image_id].strip()
    patient = columns.patient_id or patient_column(values)
    own = (*astuple(columns), patient)
    return Prediction(
        image_id=image_id,
        study_id=values[columns.study_id].strip() if columns.study_id in values else image_id,
        reference="" if is_missing(values[columns.reference]) else values[columns.reference],
        generated=values[columns.generated],
        columns={name: value for name, value in values.items() if name not in own},
        patient_id="" if patient is None or is_missing(values[patient]) else values[patient].strip(),
    )


def _problems(row: Row, columns: PredictionColumns, seen: dict[str, str], need_references: bool) -> list[str]:
    """Return what is wrong with a row; note its image in `seen` (image id -> place)."""
    needed = {columns.image_id: "image id", columns.study_id: "study", columns.patient_id: "patient"}
    if need_references:
        needed[columns.reference] = "reference"
    values = {name: value.strip() for name, value in row.values.items()}
    problems = [
        f"no {what} ('{name}' is {values[name] or 'empty'})"
        for name, what in needed.items()
        if name in values and is_missing(values[name])
    ]
    image_id, generated = values[columns.image_id], values[columns.generated]
    if not is_missing(image_id) and (place := seen.setdefault(image_id, row.position)) != row.position:
        problems.insert(0, f"the image '{image_id}' stands in {place} already")
    if generated.lower() == "nan":  # pandas makes it of an empty cell
        problems.append(f"'{columns.generated}' is not a text but {generated}")
    return [f"{row.position}: {problem}" for problem in problems]
