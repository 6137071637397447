"""From a table of images and reports to the on-disk format of the OpenI and MIMIC builders."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.datasets.builders.base_dataset_builder import ANNOTATION_FILE, IMAGE_FOLDER
from xraygpt.datasets.datasets.annotations import summarise
from xraygpt.datasets.datasets.images import read_image
from xraygpt.datasets.datasets.openi_dataset import OpenIDataset

COLUMNS = ("image", "study_id", "view", "text_type", "findings", "impression", "split")
SPLITS = ("train", "validate", "test")
REPORT = "report"
"""The ``text_type`` of the rows that are kept: a radiologist's report."""

Row = Mapping[str, str]


@dataclass
class Conversion:
    """What became of a manifest."""

    annotations: list[dict[str, str]] = field(default_factory=list)
    """Rows of ``filter_cap.json``."""
    other_rows: Counter[str] = field(default_factory=Counter)
    """Number of rows that were not asked for, by what they are."""
    skipped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Reason -> images that were asked for and could not be used."""

    def summary(self) -> str:
        """Return the counts, for people; the first few skipped images are named."""
        splits = Counter(row["split"] for row in self.annotations)
        counted = ", ".join(f"{split} {splits[split]}" for split in SPLITS if splits[split])
        lines = [f"{len(self.annotations)} images with reports: {counted}"]
        lines += [f"{count} rows left out: {what}" for what, count in self.other_rows.items()]
        lines += [summarise(f"images skipped: {reason}", names) for reason, names in self.skipped.items()]
        return "\n".join(lines)


def convert_pairs(manifest: Path, folder: Path, view: str | None = None, force: bool = False) -> Conversion:
    """Write ``folder/filter_cap.json`` and ``folder/image/`` from the reports of a manifest.

    Args:
        manifest: CSV file with the columns of `COLUMNS`, in any order and among any others; ``image`` is
            relative to the manifest's folder.
        folder: where to write; has to be new or empty.
        view: keep only this value of the column ``view``; None keeps all.
        force: write into a folder that is not empty; files of the same name are replaced.

    Raises:
        MissingFileError: no such manifest.
        DataError: a column is absent, a split is unknown, a study is in two splits, nothing is left, or the
            folder is not empty.
    """
    rows = _read_manifest(manifest)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise DataError(f"{folder}: is not empty; name another folder, or replace its files with --force")
    result = Conversion()
    wanted = [row for row in rows if _wanted(row, view, result)]
    if not wanted:
        views = ", ".join(sorted({row["view"] for row in rows if row["text_type"] == REPORT})) or "none"
        raise DataError(f"{manifest}: no row with text_type '{REPORT}' and this view (views: {views})")
    (folder / IMAGE_FOLDER).mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for row in wanted:
        _convert(row, manifest.parent, folder / IMAGE_FOLDER, taken, result)
    if not result.annotations:
        raise DataError(f"{manifest}: no usable pair of image and report\n{result.summary()}")
    text = json.dumps({"annotations": result.annotations}, indent=1, ensure_ascii=False)
    (folder / ANNOTATION_FILE).write_text(text + "\n", encoding="utf-8")
    return result


def caption_of(findings: str, impression: str) -> str:
    """Return the report as one text, ``Findings: ... Impression: ...``; empty if both sections are."""
    sections = {"Findings": " ".join(findings.split()), "Impression": " ".join(impression.split())}
    return " ".join(f"{name}: {text}" for name, text in sections.items() if text)


def _read_manifest(path: Path) -> list[Row]:
    if not path.is_file():
        raise MissingFileError(f"missing file: the manifest {path}\n  its columns: {', '.join(COLUMNS)}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            columns = reader.fieldnames or []
            rows: list[Row] = list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise DataError(
            f"{path}: columns are missing: {', '.join(missing)} (there are: {', '.join(columns) or 'none'})"
        )
    reports = [row for row in rows if row["text_type"] == REPORT]
    _check_splits(path, reports)
    return rows


def _check_splits(path: Path, rows: Sequence[Row]) -> None:
    unknown = [f"{row['image']}: '{row['split']}'" for row in rows if row["split"] not in SPLITS]
    if unknown:
        raise DataError(f"{path}: " + summarise(f"splits are none of {', '.join(SPLITS)}", unknown))
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        splits[row["study_id"]].add(row["split"])
    shared = [f"{study}: {', '.join(sorted(names))}" for study, names in splits.items() if len(names) > 1]
    if shared:
        raise DataError(f"{path}: " + summarise("studies are in more than one split", shared))


def _wanted(row: Row, view: str | None, result: Conversion) -> bool:
    if row["text_type"] != REPORT:
        result.other_rows[f"text_type is '{row['text_type']}'"] += 1
    elif view is not None and row["view"].lower() != view.lower():
        result.other_rows[f"view is '{row['view']}'"] += 1
    else:
        return True
    return False


def _convert(row: Row, source_folder: Path, image_folder: Path, taken: set[str], result: Conversion) -> None:
    """Copy the image of one row and append its annotation, or note why not."""
    source = source_folder / row["image"]
    image_id = source.stem
    caption = caption_of(row["findings"], row["impression"])
    if not caption:
        result.skipped["neither findings nor impression"].append(row["image"])
    elif not source.is_file():
        result.skipped["no such file"].append(row["image"])
    elif image_id in taken:
        result.skipped["another image has the same name"].append(row["image"])
    elif (problem := _copy_image(source, image_folder, OpenIDataset.suffixes)) is not None:
        result.skipped["cannot be read as an image"].append(problem)
    else:
        taken.add(image_id)
        result.annotations.append(
            {"image_id": image_id, "caption": caption, "split": row["split"], "study_id": row["study_id"]}
        )


def _copy_image(source: Path, folder: Path, suffixes: Iterable[str]) -> str | None:
    """Copy the bytes of an image, or write it as PNG if the data sets do not read its format.

    Returns:
        What is wrong with the image, or None.
    """
    try:
        image = read_image(source)
    except DataError as error:
        return str(error)
    if source.suffix in suffixes:
        shutil.copyfile(source, folder / source.name)
    else:
        image.save(folder / f"{source.stem}.png")
    return None
