from __future__ import annotations

from pathlib import Path

import pytest

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.preparation.sources.mimic_cxr import find_table, read_images
from xraygpt.preparation.study import Unusable


def dicom(number: int) -> str:
    return "-".join([f"{number:08x}"] * 5)


def write(folder: Path, kind: str, header: str, *rows: str) -> Path:
    path = folder / f"mimic-cxr-2.0.0-{kind}.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def split_table(folder: Path, *rows: tuple[int, int, int, str]) -> Path:
    """Rows of (image, study, subject, split), the numbers without what all begin with."""
    written = [f"{dicom(i)},{50000000 + s},{10000000 + p},{split}" for i, s, p, split in rows]
    return write(folder, "split", "dicom_id,study_id,subject_id,split", *written)


def metadata_table(folder: Path, **views: str) -> Path:
    rows = [f"3056,{view},{dicom(int(name[1:]))}" for name, view in views.items()]
    return write(folder, "metadata", "Rows,ViewPosition,dicom_id", *rows)


def test_images_by_study_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    split = split_table(
        tmp_path, (9, 2, 1, "test"), (3, 7, 0, "train"), (1, 7, 0, "train"), (4, 5, 0, "train")
    )
    table = read_images(split, metadata_table(tmp_path, d1="pa ", d3="LATERAL", d9=""))
    assert list(table.studies()) == [
        (10000000, 50000005, "train", [(dicom(4), None)]),
        (10000000, 50000007, "train", [(dicom(1), "PA"), (dicom(3), "LATERAL")]),
        (10000001, 50000002, "test", [(dicom(9), "")]),
    ]
    assert table.problems == []
    assert table.conflicts == {}


@pytest.mark.parametrize("missing", ["nan", "NA", "", "NULL"])
def test_a_missing_value_is_none(tmp_path: Path, missing: str) -> None:
    good = f"{dicom(1)},50000001,10000001,train"
    columns = "dicom_id,study_id,subject_id,split"
    split = write(tmp_path, "split", columns, good, f"{dicom(2)},50000001,{missing},train")
    table = read_images(split, metadata_table(tmp_path, d1=missing))
    assert list(table.studies()) == [(10000001, 50000001, "train", [(dicom(1), "")])]
    assert [problem.place for problem in table.problems] == [f"{split}: line 3"]


def test_rows_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    good = f"{dicom(1)},50000001,10000001,validate"
    split = write(
        tmp_path,
        "split",
        "dicom_id,study_id,subject_id,split",
        good,
        f"{dicom(2)},50000001,20000001,train",
        f"{dicom(2)},s50000001,10000001,train",
        "../../x,50000001,10000001,train",
        f"{dicom(2)},50000001,10000001,dev",
        good,
    )
    metadata = metadata_table(tmp_path, d1="AP", d8="AP")
    table = read_images(split, metadata)
    assert [split for _, _, split, _ in table.studies()] == ["val"]
    assert table.problems == [
        Unusable(f"{split}: line 3", "subject_id '20000001' is not 8 digits that begin with 1"),
        Unusable(f"{split}: line 4", "study_id 's50000001' is not 8 digits that begin with 5"),
        Unusable(f"{split}: line 5", "dicom_id '../../x' is not five groups of eight hexadecimal digits"),
        Unusable(f"{split}: line 6", "split 'dev' is none of train, validate, test"),
        Unusable(f"{split}: {dicom(1)}", "is listed more than once; the first row counts"),
        Unusable(f"{metadata}: {dicom(8)}", f"is not in {split.name}"),
    ]


def test_contradictions_are_found(tmp_path: Path) -> None:
    split = split_table(
        tmp_path,
        (1, 1, 1, "train"),
        (2, 2, 1, "test"),
        (3, 3, 2, "train"),
        (4, 3, 3, "train"),
        (5, 4, 4, "train"),
        (5, 4, 4, "validate"),
        (6, 6, 6, "test"),
    )
    table = read_images(split, metadata_table(tmp_path))
    assert table.conflicts == {
        10000001: "patient 10000001 is in several splits (train, test)",
        10000004: "patient 10000004 is in several splits (train, val)",
        50000003: "belongs to several patients (10000002, 10000003)",
        50000004: "is in several splits (train, val)",
    }


def test_table_without_a_usable_row(tmp_path: Path) -> None:
    split = write(tmp_path, "split", "dicom_id,study_id,subject_id,split", "1,2,3,4")
    with pytest.raises(DataError, match="no usable row; .*line 2: subject_id '3'"):
        read_images(split, metadata_table(tmp_path))


def test_column_is_absent(tmp_path: Path) -> None:
    split = write(tmp_path, "split", "dicom_id,study,subject_id,split", "1,2,3,4")
    with pytest.raises(DataError, match="columns are missing: 'study_id'; did you mean 'study'"):
        read_images(split, metadata_table(tmp_path))


def test_table_is_found_whatever_its_version(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no table mimic-cxr-\\*-split.csv.gz"):
        find_table(tmp_path, "split")
    old = write(tmp_path, "split", "dicom_id")
    assert find_table(tmp_path, "split") == old
    (tmp_path / "mimic-cxr-2.1.0-split.csv.gz").touch()
    with pytest.raises(DataError, match="several tables .*2.0.0-split.csv, mimic-cxr-2.1.0-split.csv.gz"):
        find_table(tmp_path, "split")
