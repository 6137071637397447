from __future__ import annotations

import tarfile
from pathlib import Path

from PIL import Image

from xraygpt.datasets.phantom.truth import Finding
from xraygpt.preparation.sources.folder import FolderSource
from xraygpt.preparation.sources.openi import OpenISource
from xraygpt.preparation.study import Study
from xraygpt.preparation.synthetic.trees import mesh_terms, write_tree


def test_openi_archives_are_read_by_the_source(tmp_path: Path) -> None:
    write_tree("openi", tmp_path / "a", 60, image_size=64, distinct_images=4)
    source = OpenISource(tmp_path / "a/NLMCXR_reports.tgz", tmp_path / "a/NLMCXR_png.tgz")
    studies = [study for study in source.studies() if isinstance(study, Study)]
    assert [study.study_id for study in studies] == [f"CXR{number}" for number in range(1, 61)]
    wanted = frozenset(picture.image_id for study in studies for picture in study.pictures)
    assert "CXR1_1_IM-0001-1001" in wanted
    assert {image_id for image_id, _ in source.picture_files(wanted)} == wanted
    missing = [study for study in studies if not study.sections.get("findings")]
    assert 0 < len(missing) < 20
    assert any("XXXX" in text for study in studies for text in study.sections.values())


def test_openi_archives_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tree("openi", tmp_path / name, 3, image_size=64)
    for name in ("NLMCXR_reports.tgz", "NLMCXR_png.tgz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with tarfile.open(tmp_path / "a/NLMCXR_reports.tgz") as tar:
        assert tar.getnames() == [f"ecgen-radiology/{number}.xml" for number in (1, 2, 3)]


def test_mesh_terms() -> None:
    effusion = Finding("pleural effusion", side="left", size="small")
    nodule = Finding("nodule", side="right", zone="upper")
    assert mesh_terms((effusion, nodule)) == ["Pleural Effusion/left/small", "Nodule/upper lobe/right"]
    assert mesh_terms(()) == ["normal"]


def test_simple_folder_is_read_by_the_source(tmp_path: Path) -> None:
    write_tree("folder", tmp_path / "a", 40, image_size=64, distinct_images=3)
    studies = [s for s in FolderSource(tmp_path / "a/reports.csv").studies() if isinstance(s, Study)]
    assert len(studies) == 40
    assert {study.split for study in studies} == {"train", "val", "test"}
    assert len({study.patient_id for study in studies}) == 20
    assert [len(study.pictures) for study in studies[:4]] == [1, 1, 2, 1]
    assert all(study.sections["findings"] and study.sections["impression"] for study in studies)
    (first, second) = studies[2].pictures
    assert (first.view, second.view) == ("PA", "LATERAL")
    assert first.file is not None
    with Image.open(first.file) as image:
        assert (image.mode, image.size) == ("L", (64, 64))
