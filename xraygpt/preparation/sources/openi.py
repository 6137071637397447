"""The OpenI collection (Indiana University chest X-rays) as the National Library of Medicine publishes it.

Source: https://openi.nlm.nih.gov/faq, collection NLMCXR; Demner-Fushman et al., JAMIA 23(2), 2016. Of its
3,955 reports 3,425 have findings and 3,921 an impression; 7,470 images are named in 3,851 of them.

The same image has other names in other places:

- ``CXR1_1_IM-0001-3001`` in the reports and ``CXR1_1_IM-0001-3001.png`` in ``NLMCXR_png.tgz``,
- ``1/1_IM-0001-3001.dcm`` in ``NLMCXR_dcm.tgz``,
- ``1_IM-0001-3001.dcm.png`` in the copy on Kaggle.

Of all other studies the report says ``CXR2_IM-0652-1001``; the DICOM file is ``2_IM-0652-1001.dcm``. What
they have in common is the number before ``_IM`` and what follows it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from xraygpt.common.errors import DataError, summarise
from xraygpt.common.files import is_missing, load_json
from xraygpt.common.tables import SPLITS, check_columns, normalise_split, read_table
from xraygpt.preparation.sources.files import (
    MEBIBYTE,
    Limits,
    is_image,
    is_safe_id,
    printable,
    read_members,
    stem,
    walk_files,
)
from xraygpt.preparation.study import Picture, Study, Unusable, in_several_splits

ROOT = "eCitation"
TEXTS = "MedlineCitation/Article/Abstract/AbstractText"
REPORT_LIMITS = Limits(member_bytes=MEBIBYTE, total_bytes=1024 * MEBIBYTE)
IMAGE_LIMITS = Limits(member_bytes=512 * MEBIBYTE, total_bytes=512 * 1024 * MEBIBYTE)
"""The DICOM archive unpacks to about 100 GiB."""
_PREFIX = re.compile(r"CXR(?:\d+_(?=\d+_IM))?", re.IGNORECASE)
ID_COLUMNS = ("study_id", "image_id", "id", "uid", "dicom_id")
"""Columns or keys that name what belongs to a split; the first that is there."""


class OpenIReport(NamedTuple):
    """What a file says."""

    study_id: str
    """``CXR1``."""
    sections: dict[str, str]
    """Label in lower case -> text, whitespace joined. Text without a label is ``unlabelled``."""
    image_ids: tuple[str, ...]
    """``CXR1_1_IM-0001-3001``; each once, in the file's order; whatever the file says, unchecked."""

    def names(self) -> set[str]:
        """Return the names that a split file may use: the study's, its images', their beginnings."""
        # R2Gen's annotation.json says CXR2384_IM-0942 of the study with CXR2384_IM-0942-1001.
        names = {self.study_id, self.study_id.removeprefix("CXR"), *map(image_key, self.image_ids)}
        for image_id in self.image_ids:
            parts = image_id.split("-")
            names.update("-".join(parts[:count]) for count in range(2, len(parts) + 1))
        return names


def parse_report(data: bytes) -> OpenIReport:
    """Read one XML file. Entities are refused, so it cannot grow in memory or reach for other files.

    Raises:
        DataError: not XML, hostile, or not a report of this collection; says why.
    """
    try:
        root = fromstring(data)
    except ParseError as error:
        raise DataError(f"broken XML ({error})") from error
    except DefusedXmlException as error:
        raise DataError(f"XML with entities, refused ({printable(str(error))})") from error
    except (ValueError, LookupError, RecursionError) as error:  # an encoding that nobody knows, and the like
        raise DataError(f"unreadable XML ({error})") from error
    if root.tag != ROOT:
        raise DataError(f"the root element is <{printable(str(root.tag))}>, not <{ROOT}>")
    study = root.find("uId")
    study_id = "" if study is None else study.get("id", "").strip()
    if not is_safe_id(study_id):
        raise DataError(f"<uId> gives no usable study id ({printable(study_id) or 'none'})")
    images = (image.get("id", "").strip() for image in root.iter("parentImage"))
    texts: dict[str, list[str]] = defaultdict(list)
    for element in root.iterfind(TEXTS):
        label = " ".join(element.get("Label", "").lower().split()) or "unlabelled"
        texts[label] += " ".join(element.itertext()).split()
    sections = {label: " ".join(words) for label, words in texts.items()}
    return OpenIReport(study_id, sections, tuple(dict.fromkeys(images)))


def image_key(name: str) -> str:
    """Return what all names of an image (ids, or paths of files) have in common: ``1_IM-0001-3001``."""
    return _PREFIX.sub("", stem(name), count=1)


class OpenISource:
    """Reports, and images from a folder or an archive; nothing is read before it is asked for.

    Args:
        reports: ``NLMCXR_reports.tgz``, or a folder with its XML files.
        images: ``NLMCXR_png.tgz`` or ``NLMCXR_dcm.tgz``, or a folder in which one was unpacked; None
            for the reports alone, whose studies then have no pictures.
        splits: the published splits (see `read_splits`), by study or by image; a study that they do
            not name is left out.
    """

    name = "openi"

    def __init__(
        self, reports: Path, images: Path | None = None, splits: Mapping[str, str] | None = None
    ) -> None:
        self.reports = reports
        self.images = images
        self.splits = splits
        self.skipped_members: list[Unusable] = []
        """What `picture_files` left out of the image archive."""

    def studies(self) -> Iterator[Study | Unusable]:
        """Yield what gives no study, then all studies by their number.

        Where the images are an archive, every named image is taken to be there; those that are not are
        those that `picture_files` does not yield.

        Raises:
            MissingFileError, DataError: the reports or images cannot be read, there are no reports, or the
                splits contradict the studies.
        """
        reports, unusable = self._read_reports()
        files = self._find_images(reports)
        splits: dict[str, str] = {}
        if self.splits is not None:
            splits = assign_splits(self.splits, {report.study_id: report.names() for report in reports})
        yield from unusable
        owners: dict[str, str] = {}
        for study_id, sections, image_ids in reports:
            if self.splits is not None and study_id not in splits:
                yield Unusable(study_id, "not in the split file")
                continue
            pictures: list[Picture] = []
            skipped: dict[str, str] = {}
            for image_id in image_ids if self.images is not None else ():
                key = image_key(image_id)
                if not is_safe_id(image_id):
                    skipped[printable(image_id)] = "its id cannot be the name of a file"
                elif owners.setdefault(key, study_id) != study_id:
                    skipped[image_id] = f"study {owners[key]} has it as well"
                elif files is not None and key not in files:
                    skipped[image_id] = "no such file"
                else:
                    pictures.append(Picture(image_id, None if files is None else files[key]))
            split = splits.get(study_id)
            yield Study(study_id, sections, tuple(pictures), split=split, skipped_pictures=skipped)

    def picture_files(self, wanted: frozenset[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (image id, file) for the wanted images of the image archive, in its order, each once.

        Raises:
            MissingFileError, DataError: the archive cannot be read to its end.
        """
        assert self.images is not None, "studies without images"
        left = {image_key(image_id): image_id for image_id in wanted}
        self.skipped_members = []

        def is_wanted(name: str) -> bool:
            return is_image(name) and image_key(name) in left

        for member in read_members(self.images, is_wanted, IMAGE_LIMITS):
            if isinstance(member, Unusable):
                self.skipped_members.append(member)
            else:
                yield left.pop(image_key(member.name)), member.data

    def _read_reports(self) -> tuple[list[OpenIReport], list[Unusable]]:
        """Return the reports by number, and what is none."""
        reports: dict[str, OpenIReport] = {}
        unusable: list[Unusable] = []
        for member in read_members(self.reports, lambda name: name.lower().endswith(".xml"), REPORT_LIMITS):
            if isinstance(member, Unusable):
                unusable.append(member)
                continue
            try:
                report = parse_report(member.data)
            except DataError as error:
                unusable.append(Unusable(member.name, str(error)))
                continue
            if reports.setdefault(report.study_id, report) is not report:
                unusable.append(Unusable(member.name, f"another report is of study {report.study_id}"))
        if not reports:
            reasons = "".join(f"\n  {entry.place}: {entry.reason}" for entry in unusable[:5])
            raise DataError(f"{self.reports}: there is no OpenI report (.xml) in it{reasons}")
        numbers = {name: int((re.findall(r"\d+", name) or "0")[0]) for name in reports}
        return [reports[name] for name in sorted(reports, key=lambda name: (numbers[name], name))], unusable

    def _find_images(self, reports: list[OpenIReport]) -> dict[str, Path] | None:
        """Return key (see `image_key`) -> file of all images in a folder; None if they are not in a folder.

        Raises:
            DataError: there are none, the same image is there more than once, or none is of a report.
        """
        if self.images is None or not self.images.is_dir():
            return None
        found: dict[str, list[Path]] = defaultdict(list)
        for entry in walk_files(self.images):
            if not isinstance(entry, Unusable) and is_image(entry[0]):
                found[image_key(entry[0])].append(entry[1])
        if not found:
            raise DataError(f"{self.images}: there are no images in this folder")
        several = [", ".join(map(str, files)) for files in found.values() if len(files) > 1]
        if several:
            raise DataError(
                f"{self.images}: {summarise('images are there more than once', several)}\n"
                "name the folder that holds the form you want"
            )
        if not any(image_key(image_id) in found for report in reports for image_id in report.image_ids):
            raise DataError(
                f"{self.images}: has none of the images that the reports name, only such as "
                f"{next(iter(found.values()))[0].name}"
            )
        return {key: files[0] for key, files in found.items()}


def read_splits(path: Path) -> dict[str, str]:
    """Return study or image id -> ``train``, ``val`` or ``test``, of a split file.

    Either a JSON object ``{"train": [...], "val": [...], "test": [...]}`` of ids or of objects with one of
    `ID_COLUMNS` (R2Gen's ``annotation.json`` has this form), or a table (see `read_table`) with a column
    ``split`` and one of `ID_COLUMNS`. An id may be given as the name of an image file.

    Raises:
        MissingFileError, DataError: no such file, not of such a form, an unknown split, an id in two splits,
            or no id at all.
    """
    splits: dict[str, str] = {}
    problems: list[str] = []
    for place, name, label in _entries(path):
        split = normalise_split(label.strip().lower())
        name = stem(name.strip())
        if split not in SPLITS:
            problems.append(f"{place}: '{label}' is none of {', '.join(SPLITS)}")
        elif is_missing(name):
            problems.append(f"{place}: no id")
        elif splits.setdefault(name, split) != split:
            problems.append(f"{place}: {name} is in {splits[name]} and in {split}")
    if problems:
        raise DataError(f"{path}: {summarise('entries of the split file are wrong', problems)}")
    if not splits:
        raise DataError(f"{path}: the split file names nothing")
    return splits


def assign_splits(splits: Mapping[str, str], names: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Return study id -> split, for the studies that `splits` (see `read_splits`) names by any of `names`.

    Raises:
        DataError: a study is in two splits, or none is in any.
    """
    found = [
        (study_id, splits[name]) for study_id, known in names.items() for name in known if name in splits
    ]
    if torn := in_several_splits(found):
        raise DataError(summarise("studies are in more than one split of the split file", torn))
    if not found:
        raise DataError(
            f"the split file names none of the {len(names)} studies; its ids are such as "
            f"'{next(iter(splits))}', the studies are called such as '{next(iter(names), '')}'"
        )
    return dict(found)


def _entries(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (place, id, split as written)."""
    content = load_json(path) if path.suffix.lower() == ".json" else None
    if not isinstance(content, dict) or "annotations" in content:
        column = ""
        for row in read_table(path, ("split",)):
            column = column or next((name for name in ID_COLUMNS if name in row.values), ID_COLUMNS[0])
            check_columns(row.place, row.values, (column,))
            yield row.place, row.values[column], row.values["split"]
        return
    for label, entries in content.items():
        if not isinstance(entries, list):
            raise DataError(f"{path}: '{label}' has to be a list of ids")
        for number, entry in enumerate(entries):
            place = f"{path}: {label}[{number}]"
            if isinstance(entry, Mapping):
                entry = next((entry[name] for name in ID_COLUMNS if name in entry), None)
            if isinstance(entry, bool) or not isinstance(entry, str | int):
                raise DataError(f"{place}: expected an id, or an object with one of {', '.join(ID_COLUMNS)}")
            yield place, str(entry), label
