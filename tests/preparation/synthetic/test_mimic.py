from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.preparation.cli import main
from xraygpt.preparation.sources.mimic_cxr import MimicCXRSource
from xraygpt.preparation.study import Study
from xraygpt.preparation.synthetic.mimic import LABELS, PRIOR_SENTENCES, TABLES
from xraygpt.preparation.synthetic.trees import write_tree

STUDIES = 150


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trees") / "mimic"
    write_tree("mimic-cxr", folder, STUDIES, image_size=64, distinct_images=20)
    return folder


def rows(tree: Path, kind: str) -> list[dict[str, str]]:
    with gzip.open(tree / f"mimic-cxr-2.0.0-{kind}.csv.gz", "rt", newline="") as file:
        return list(csv.DictReader(file))


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_source_reads_every_study(tree: Path) -> None:
    studies = list(MimicCXRSource(tree, views=["PA", "AP", "LATERAL", "LL", ""]).studies())
    assert len(studies) == STUDIES
    assert all(isinstance(study, Study) and study.pictures for study in studies)
    assert not any(study.skipped_pictures for study in studies if isinstance(study, Study))


def test_files_are_named_as_published(tree: Path) -> None:
    names = [path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()]
    study = r"files/p(1\d)/p\1\d{6}/s5\d{7}"
    patterns = [
        rf"{study}\.txt",
        rf"{study}(/[0-9a-f]{{8}}(-[0-9a-f]{{8}}){{4}})\.jpg",
        r"mimic-cxr-2\.0\.0-\w+\.csv\.gz",
    ]
    counts = [sum(re.fullmatch(pattern, name) is not None for name in names) for pattern in patterns]
    assert counts == [STUDIES, len(rows(tree, "split")), 3]
    assert sum(counts) + 1 == len(names)
    assert "synthetic" in (tree / "SYNTHETIC.txt").read_text()


def test_tables_agree(tree: Path) -> None:
    split, metadata, labels = rows(tree, "split"), rows(tree, "metadata"), rows(tree, "chexpert")
    assert tuple(split[0]) == TABLES["split"]
    assert tuple(metadata[0]) == TABLES["metadata"]
    assert tuple(labels[0]) == ("subject_id", "study_id", *LABELS)
    assert [row["dicom_id"] for row in split] == [row["dicom_id"] for row in metadata]
    assert list(dict.fromkeys(row["study_id"] for row in split)) == [row["study_id"] for row in labels]
    for row in metadata[:10]:
        folder = tree / f"files/p{row['subject_id'][:2]}/p{row['subject_id']}/s{row['study_id']}"
        with Image.open(folder / f"{row['dicom_id']}.jpg") as image:
            assert (image.mode, image.size) == ("L", (int(row["Columns"]), int(row["Rows"])))


def test_patients_have_one_split_and_several_studies(tree: Path) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    studies: dict[str, set[str]] = defaultdict(set)
    for row in rows(tree, "split"):
        splits[row["subject_id"]].add(row["split"])
        studies[row["subject_id"]].add(row["study_id"])
    counts = Counter(split for found in splits.values() for split in found)
    assert counts.total() == len(splits)
    assert counts["validate"] == counts["test"] == 1
    assert 2.5 < STUDIES / len(splits) < 4.5
    assert max(map(len, studies.values())) > 3


def test_reports_have_the_layout_and_the_variety(tree: Path) -> None:
    texts = [path.read_text() for path in tree.rglob("s*.txt")]
    lines = [line for text in texts for line in text.splitlines()]
    assert all(line.startswith(" ") and len(line) <= 79 for line in lines)
    sections = [study.sections for study in MimicCXRSource(tree).studies() if isinstance(study, Study)]
    whole = [found for found in sections if {"findings", "impression", "comparison"} <= found.keys()]
    assert len(whole) > STUDIES / 2
    for name in ("addendum", "last_paragraph"):
        assert any(name in found for found in sections)
    assert any("findings" not in found and "impression" in found for found in sections)
    assert any("findings" in found and "impression" not in found for found in sections)
    assert any(sentence in found["findings"] for found in whole for sentence in PRIOR_SENTENCES)
    assert any(" CONCLUSION:" in text for text in texts)
    assert any("___" in found["findings"] for found in whole)


def test_labels_agree_with_the_reports(tree: Path) -> None:
    source = MimicCXRSource(tree)
    words = {"Pleural Effusion": "effusion", "Pneumothorax": "pneumothorax", "Lung Lesion": "nodule"}
    published = {row["study_id"]: row for row in rows(tree, "chexpert")}
    checked = 0
    for study in source.studies():
        assert isinstance(study, Study)
        cells = published[study.study_id]
        labels = {name: int(float(cells[name])) for name in LABELS if cells[name]}
        assert {"Cardiomegaly", "Pleural Effusion", "Pneumothorax"} <= labels.keys()
        if len(study.sections.get("impression", "").split()) > 1:
            for label, word in words.items():
                assert (labels.get(label) == 1) == (word in study.sections["impression"].lower())
                checked += 1
    assert checked > STUDIES


def test_no_two_images_are_equal(tree: Path) -> None:
    pixels = Counter(Image.open(path).tobytes() for path in tree.rglob("*.jpg"))
    assert max(pixels.values()) == 1


def test_tree_depends_on_its_arguments_alone(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_tree("mimic-cxr", tmp_path / name, 4, seed=seed, image_size=64, distinct_images=2)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert hashes(tmp_path / "a") != hashes(tmp_path / "c")


def test_dicom_files_and_reports_in_a_zip_file(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    write_tree("mimic-cxr-dicom", tmp_path / "a", 50, image_size=64, distinct_images=2)
    with zipfile.ZipFile(tmp_path / "a" / "mimic-cxr-reports.zip", "w") as archive:
        for text in list(tmp_path.rglob("s*.txt")):
            archive.write(text, text.relative_to(tmp_path / "a"))
            text.unlink()
    studies = [study for study in MimicCXRSource(tmp_path / "a").studies() if isinstance(study, Study)]
    assert len(studies) == 50
    pictures = [picture for study in studies for picture in study.pictures]
    files = [pydicom.dcmread(io.BytesIO(p.file.read_bytes())) for p in pictures if p.file]
    assert [file.ViewPosition for file in files] == [picture.view for picture in pictures]
    assert {str(file.PatientName) for file in files} == {"SYNTHETIC^PHANTOM"}
    assert {file.PatientIdentityRemoved for file in files} == {"YES"}
    assert {file.PhotometricInterpretation for file in files} == {"MONOCHROME1", "MONOCHROME2"}
    for file in files:
        corner = int(file.pixel_array[0, 0])  # air
        assert (corner > 3000) == (file.PhotometricInterpretation == "MONOCHROME1")


@pytest.mark.parametrize(
    ("argument", "message"),
    [("--studies=0", "1 or more"), ("--size=63", "64 or more"), ("--distinct-images=0", "1 or more")],
)
def test_wrong_numbers(
    tmp_path: Path, argument: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["phantom", "--as", "mimic-cxr", "--out", str(tmp_path / "a"), argument])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    for folder in (tmp_path, tmp_path / "mine"):
        with pytest.raises(DataError, match="not an empty folder"):
            write_tree("mimic-cxr", folder, 1, image_size=64)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
