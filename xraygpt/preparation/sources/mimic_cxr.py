"""MIMIC-CXR and MIMIC-CXR-JPG as PhysioNet publishes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.preparation.sources.mimic_files import NO_FILE, Reports, ReportZip, Tree, UnusableFileError
from xraygpt.preparation.sources.mimic_tables import (
    Image,
    ImageTable,
    find_table,
    read_images,
)
from xraygpt.preparation.sources.sections import parse_sections
from xraygpt.preparation.study import Picture, Study, Unusable

DEFAULT_VIEWS = ("PA", "AP")
REPORTS_ZIP = "mimic-cxr-reports.zip"


class MimicCXRSource:
    """The tree ``files/p10/p10000032/s50414267/<image>.jpg`` (or ``.dcm``) with its reports and tables.

    Studies come by the numbers of patient and study. A study without a report, a patient in several splits
    and a row that cannot be read come as `Unusable`; an image of another view, without metadata or without a
    file is among a study's ``skipped_pictures``. Symbolic links that lead out of the tree are not followed.

    Args:
        root: the folder with ``files/``; JPEG or DICOM, as it is found there.
        reports: the folder with the ``files/`` of the reports, or ``mimic-cxr-reports.zip``; None looks for
            the zip file in `root`, then for reports among the images. MIMIC-CXR-JPG is published without
            reports.
        tables: the folder with ``mimic-cxr-*-split.csv.gz`` and ``...-metadata.csv.gz``, compressed or not;
            None is `root`. MIMIC-CXR (the DICOM files) is published without them.
        views: the values of ``ViewPosition`` that are wanted.

    Raises:
        MissingFileError: a folder, the reports or a table are not there.
        DataError: several tables could be meant, or the zip file is damaged.
    """

    name = "mimic-cxr"

    def __init__(
        self,
        root: Path,
        *,
        reports: Path | None = None,
        tables: Path | None = None,
        views: Sequence[str] = DEFAULT_VIEWS,
    ) -> None:
        self.images = Tree(root)
        self.views = frozenset(view.strip().upper() for view in views)
        self.tables = tables or root
        self.split_table = find_table(self.tables, "split")
        self.metadata_table = find_table(self.tables, "metadata")
        self.reports = self._find_reports(root, reports)

    def studies(self) -> Iterator[Study | Unusable]:
        """Go through all studies; report texts and folders are read as they come.

        Raises:
            DataError: a table is damaged or lacks a column, or no image has a wanted view.
        """
        table = self._table
        yield from table.problems
        for subject, study, split, images in table.studies():
            conflict = table.conflicts.get(study) or table.conflicts.get(subject)
            if conflict:
                yield Unusable(f"study {study} of patient {subject}", conflict)
                continue
            try:
                yield self._study(subject, study, split, images)
            except UnusableFileError as error:
                yield Unusable(self.reports.place(subject, study), str(error))

    def _study(self, subject: int, study: int, split: str, images: Sequence[Image]) -> Study:
        sections = parse_sections(self.reports.read(subject, study))
        files = self.images.images(subject, study)
        pictures: list[Picture] = []
        skipped: dict[str, str] = {}
        for image in images:
            file = files.get(image.dicom_id, NO_FILE)
            if image.view is None:
                skipped[image.dicom_id] = f"is not in {self.metadata_table.name}"
            elif image.view not in self.views:
                skipped[image.dicom_id] = f"view is {image.view or 'not given'}"
            elif isinstance(file, str):
                skipped[image.dicom_id] = file
            else:
                pictures.append(Picture(image.dicom_id, file, image.view))
        return Study(str(study), sections, tuple(pictures), str(subject), split, skipped)

    def _find_reports(self, root: Path, reports: Path | None) -> Reports:
        if reports is None:
            reports = root / REPORTS_ZIP if (root / REPORTS_ZIP).is_file() else root
        if reports.is_file():
            return ReportZip(reports)
        if not reports.is_dir():
            raise MissingFileError(f"{reports}: no such folder or zip file with the reports")
        tree = self.images if reports == root else Tree(reports)
        if not tree.has_reports():
            raise MissingFileError(
                f"{reports}: has no reports (files/p10/p10000032/s50414267.txt and the like). MIMIC-CXR-JPG "
                f"is published without; name the {REPORTS_ZIP} of MIMIC-CXR, or the folder with its files/"
            )
        return tree

    @cached_property
    def _table(self) -> ImageTable:
        table = read_images(self.split_table, self.metadata_table)
        counts = table.view_counts()
        if not self.views & counts.keys():
            there = ", ".join(f"{view or 'none given'} ({count})" for view, count in sorted(counts.items()))
            wanted = ", ".join(sorted(self.views))
            raise DataError(f"{self.metadata_table}: no image has the view {wanted}; there are: {there}")
        return table
