from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.preparation.sources.mimic_cxr import MAX_REPORT_BYTES, MimicCXRSource, find_table, read_images
from xraygpt.preparation.study import Picture, Study, Unusable

REPORT = " FINDINGS: Clear lungs.\n \n IMPRESSION: Normal.\n"
SECTIONS = {"findings": "Clear lungs.", "impression": "Normal."}
SUBJECT, STUDY = 10000032, 50414267
FOLDER = f"files/p10/p{SUBJECT}"
PLACE = f"{FOLDER}/s{STUDY}.txt"


def dicom(number: int) -> str:
    return "-".join([f"{number:08x}"] * 5)


def write_tables(root: Path, **views: str) -> None:
    """One study; images ``d1``, ``d2``, ... with their views, "-" for no metadata."""
    ids = {dicom(int(name[1:])): view for name, view in views.items()}
    split = "".join(f"{name},{STUDY},{SUBJECT},validate\n" for name in ids)
    (root / "mimic-cxr-2.0.0-split.csv").write_text("dicom_id,study_id,subject_id,split\n" + split)
    metadata = "".join(f"{name},{view}\n" for name, view in ids.items() if view != "-")
    (root / "mimic-cxr-2.0.0-metadata.csv").write_text("dicom_id,ViewPosition\n" + metadata)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with one study: a PA and a lateral image, and the report."""
    root = tmp_path / "mimic"
    (root / FOLDER / f"s{STUDY}").mkdir(parents=True)
    (root / PLACE).write_text(REPORT)
    for number in (1, 2):
        (root / FOLDER / f"s{STUDY}" / f"{dicom(number)}.jpg").write_bytes(b"not opened here")
    write_tables(root, d1="PA", d2="LATERAL")
    return root


def only(source: MimicCXRSource) -> Study | Unusable:
    (result,) = source.studies()
    return result


def study(source: MimicCXRSource) -> Study:
    result = only(source)
    assert isinstance(result, Study)
    return result


def test_study_as_published(root: Path) -> None:
    file = root / FOLDER / f"s{STUDY}" / f"{dicom(1)}.jpg"
    assert only(MimicCXRSource(root)) == Study(
        study_id=str(STUDY),
        sections=SECTIONS,
        pictures=(Picture(dicom(1), file, "PA"),),
        patient_id=str(SUBJECT),
        split="val",
        skipped_pictures={dicom(2): "view is LATERAL"},
    )


def test_views_are_chosen(root: Path) -> None:
    assert [picture.view for picture in study(MimicCXRSource(root, views=["lateral", "PA"])).pictures] == [
        "PA",
        "LATERAL",
    ]
    with pytest.raises(DataError, match="no image has the view LL; there are: LATERAL \\(1\\), PA \\(1\\)"):
        only(MimicCXRSource(root, views=["LL"]))


def test_images_left_out_have_a_reason(root: Path) -> None:
    write_tables(root, d1="AP", d2="-", d3="", d4="PA")
    result = study(MimicCXRSource(root))
    assert [picture.image_id for picture in result.pictures] == [dicom(1)]
    assert result.skipped_pictures == {
        dicom(2): "is not in mimic-cxr-2.0.0-metadata.csv",
        dicom(3): "view is not given",
        dicom(4): "no such file",
    }


def test_dicom_files(root: Path) -> None:
    folder = root / FOLDER / f"s{STUDY}"
    (folder / f"{dicom(1)}.jpg").rename(folder / f"{dicom(1)}.dcm")
    (picture,) = study(MimicCXRSource(root)).pictures
    assert picture.file == folder / f"{dicom(1)}.dcm"


def test_folder_of_a_study_is_not_there(root: Path) -> None:
    (root / FOLDER / f"s{STUDY}").rename(root / "elsewhere")
    assert study(MimicCXRSource(root)).skipped_pictures[dicom(1)] == "no such file"


@pytest.mark.parametrize("prefix", ["", "mimic-cxr-reports/"])
def test_reports_in_a_zip_file(root: Path, prefix: str) -> None:
    (root / PLACE).unlink()
    with zipfile.ZipFile(root / "mimic-cxr-reports.zip", "w") as archive:
        archive.writestr(f"{prefix}files/p10/p{SUBJECT}/", "")
        archive.writestr(prefix + PLACE, REPORT)
    assert study(MimicCXRSource(root)).sections == SECTIONS
    assert study(MimicCXRSource(root, reports=root / "mimic-cxr-reports.zip")).sections == SECTIONS


def test_reports_and_tables_in_other_folders(root: Path, tmp_path: Path) -> None:
    (tmp_path / "text" / FOLDER).mkdir(parents=True)
    (tmp_path / "text" / PLACE).write_text(" IMPRESSION: Other.\n")
    (tmp_path / "tables").mkdir()
    for table in root.glob("*.csv"):
        table.rename(tmp_path / "tables" / table.name)
    source = MimicCXRSource(root, reports=tmp_path / "text", tables=tmp_path / "tables")
    assert study(source).sections == {"impression": "Other."}
    with pytest.raises(MissingFileError, match="no table"):
        MimicCXRSource(root)


def test_no_reports_at_all(root: Path) -> None:
    (root / PLACE).unlink()
    with pytest.raises(MissingFileError, match="no reports .* name the mimic-cxr-reports.zip"):
        MimicCXRSource(root)
    with pytest.raises(MissingFileError, match="no such folder or zip file"):
        MimicCXRSource(root, reports=root / "absent")
    (root / "mimic-cxr-reports.zip").write_text("<html>not a zip")
    with pytest.raises(DataError, match="not a zip file"):
        MimicCXRSource(root)
    with zipfile.ZipFile(root / "mimic-cxr-reports.zip", "w") as archive:
        archive.writestr("readme.txt", "")
    with pytest.raises(DataError, match="has no reports"):
        MimicCXRSource(root)


def test_no_tree(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="has no folder 'files'"):
        MimicCXRSource(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no report"),
        (b"\xff\xfe", "the report is not UTF-8 text (invalid start byte)"),
        (b"x" * (MAX_REPORT_BYTES + 1), "the report is larger than 1 MiB"),
    ],
)
def test_report_that_cannot_be_used(root: Path, content: bytes | None, reason: str) -> None:
    (root / FOLDER / "s50000000.txt").write_text(REPORT)  # of no study in the tables
    (root / PLACE).unlink()
    if content is not None:
        (root / PLACE).write_bytes(content)
    assert only(MimicCXRSource(root)) == Unusable(PLACE, reason)


def test_damaged_report_in_a_zip_file(root: Path) -> None:
    path = root / "mimic-cxr-reports.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(PLACE, REPORT)
    path.write_bytes(path.read_bytes().replace(b"Clear", b"CLEAR"))
    result = only(MimicCXRSource(root))
    assert isinstance(result, Unusable)
    assert result.place == f"mimic-cxr-reports.zip: p{SUBJECT}/s{STUDY}.txt"
    assert result.reason.startswith("the report cannot be unpacked (Bad CRC-32")


@pytest.mark.parametrize("name", [PLACE, f"{FOLDER}/s{STUDY}", FOLDER, f"{FOLDER}/s{STUDY}/{dicom(1)}.jpg"])
def test_links_out_of_the_tree_are_not_followed(root: Path, tmp_path: Path, name: str) -> None:
    (root / "files/p10/p10000033").mkdir()
    (root / "files/p10/p10000033/s50000000.txt").write_text(REPORT)
    (root / name).rename(tmp_path / "outside")
    (root / name).symlink_to(tmp_path / "outside")
    result = only(MimicCXRSource(root))
    reason = result.reason if isinstance(result, Unusable) else result.skipped_pictures[dicom(1)]
    assert "is a link to a place outside of the data" in reason


def test_links_inside_the_tree_are_followed(root: Path) -> None:
    file = root / FOLDER / f"s{STUDY}" / f"{dicom(1)}.jpg"
    file.rename(root / "moved.jpg")
    file.symlink_to(root / "moved.jpg")
    assert [picture.file for picture in study(MimicCXRSource(root)).pictures] == [file]


def test_tree_behind_a_link_has_to_be_named(root: Path, tmp_path: Path) -> None:
    (root / "files").rename(tmp_path / "outside")
    (root / "files").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="name the folder that holds the real one"):
        MimicCXRSource(root)
    (tmp_path / "link").symlink_to(root)
    (root / "files").unlink()
    (tmp_path / "outside").rename(root / "files")
    assert study(MimicCXRSource(tmp_path / "link")).pictures


def test_pipes_and_loops_are_not_opened(root: Path) -> None:
    folder = root / FOLDER / f"s{STUDY}"
    write_tables(root, d1="PA", d3="PA", d4="PA")
    os.mkfifo(folder / f"{dicom(3)}.jpg")
    (folder / f"{dicom(4)}.jpg").symlink_to(folder / f"{dicom(4)}.jpg")
    assert study(MimicCXRSource(root)).skipped_pictures == {
        dicom(3): "is neither a file nor a folder",
        dicom(4): "cannot be read (Too many levels of symbolic links)",
    }


def test_patient_in_two_splits_is_listed(root: Path) -> None:
    with (root / "mimic-cxr-2.0.0-split.csv").open("a") as table:
        table.write(f"{dicom(3)},50000001,{SUBJECT},test\n")
    reason = f"patient {SUBJECT} is in several splits (val, test)"
    assert list(MimicCXRSource(root).studies()) == [
        Unusable(f"study 50000001 of patient {SUBJECT}", reason),
        Unusable(f"study {STUDY} of patient {SUBJECT}", reason),
    ]


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
