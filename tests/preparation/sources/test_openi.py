from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.preparation.sources.openi import OpenISource, assign_splits, image_key, read_splits
from xraygpt.preparation.study import Study, Unusable

BOMB = """<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>
<eCitation><uId id="CXR9"/>&b;</eCitation>"""
EXTERNAL = """<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<eCitation><uId id="CXR9"/>&a;</eCitation>"""
EXPECTED = {"CXR1_IM-0001": "train", "CXR2_IM-0002": "val", "3": "test"}


def report(number: int, *images: str, text: str = "Clear\n lungs.", root: str = "eCitation") -> str:
    parents = "".join(
        f'<parentImage id="{image}"><caption>PA and Lateral</caption></parentImage>' for image in images
    )
    return f"""<?xml version="1.0" encoding="utf-8"?>
<{root}><uId id="CXR{number}"/><MedlineCitation><Article><Abstract>
  <AbstractText Label="FINDINGS">{text}</AbstractText>
  <AbstractText Label="IMPRESSION">Normal <i>chest</i> &amp; heart.</AbstractText>
  <AbstractText Label="COMPARISON"/>
</Abstract></Article></MedlineCitation>{parents}</{root}>"""


def write_archive(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            data = text.encode()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_folder(path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


REPORTS = {
    "ecgen-radiology/10.xml": report(10, "CXR10_IM-0002-1001"),
    "ecgen-radiology/2.xml": report(2),
    "ecgen-radiology/1.xml": report(1, "CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"),
    "ecgen-radiology/readme.txt": "no report",
}


def split(source: OpenISource) -> tuple[dict[str, Study], dict[str, str]]:
    entries = list(source.studies())
    studies = {entry.study_id: entry for entry in entries if isinstance(entry, Study)}
    return studies, {entry.place: entry.reason for entry in entries if isinstance(entry, Unusable)}


@pytest.mark.parametrize("write", [write_archive, write_folder], ids=["archive", "folder"])
def test_reports_become_studies_by_number(
    tmp_path: Path, write: Callable[[Path, dict[str, str]], Path]
) -> None:
    source = OpenISource(write(tmp_path / "reports", REPORTS))
    studies, unusable = split(source)
    assert list(studies) == ["CXR1", "CXR2", "CXR10"]
    assert unusable == {}
    assert studies["CXR1"].sections == {
        "findings": "Clear lungs.",
        "impression": "Normal chest & heart.",
        "comparison": "",
    }
    assert all(study.pictures == () and study.split is None for study in studies.values())
    assert list(source.studies()) == list(studies.values())


def test_what_is_no_report_is_listed(tmp_path: Path) -> None:
    files = {
        "a/1.xml": report(1),
        "a/bomb.xml": BOMB,
        "a/external.xml": EXTERNAL,
        "a/broken.xml": report(3)[:-30],
        "a/again.xml": report(1, text="other"),
        "a/root.xml": report(4, root="html"),
        "a/noid.xml": "<eCitation/>",
        "a/unsafe.xml": report(5).replace("CXR5", "../CXR5"),
        "a/encoding.xml": report(6).replace("utf-8", "no-such"),
        "a/large.xml": "<!-- " + "x" * (1 << 20),
        "../up.xml": report(7),
    }
    studies, unusable = split(OpenISource(write_archive(tmp_path / "r.tgz", files)))
    assert list(studies) == ["CXR1"]
    assert studies["CXR1"].sections["findings"] == "Clear lungs."
    assert set(unusable) == set(files) - {"a/1.xml"}
    for name, reason in {
        "a/bomb.xml": "XML with entities, refused",
        "a/external.xml": "XML with entities, refused",
        "a/broken.xml": "broken XML",
        "a/again.xml": "another report is of study CXR1",
        "a/root.xml": "the root element is <html>, not <eCitation>",
        "a/noid.xml": "<uId> gives no usable study id (none)",
        "a/unsafe.xml": "<uId> gives no usable study id (../CXR5)",
        "a/encoding.xml": "unreadable XML",
        "a/large.xml": "no more than 1 MiB",
        "../up.xml": "its path leads upwards",
    }.items():
        assert reason in unusable[name]


def test_archive_without_reports_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"r\.tgz: there is no OpenI report"):
        list(OpenISource(write_archive(tmp_path / "r.tgz", {})).studies())
    files = {"a.xml": "<x/>", "b.txt": ""}
    with pytest.raises(
        DataError, match=r"no OpenI report \(\.xml\) in it\n  a\.xml: the root element is <x>"
    ):
        list(OpenISource(write_archive(tmp_path / "r.tgz", files)).studies())
    with pytest.raises(MissingFileError, match=r"nowhere\.tgz"):
        list(OpenISource(tmp_path / "nowhere.tgz").studies())


@pytest.mark.parametrize(
    "names",
    [
        ["CXR1_1_IM-0001-3001.png", "deep/er/CXR10_IM-0002-1001.png"],
        ["1/1_IM-0001-3001.dcm", "10/10_IM-0002-1001.dcm"],
        ["images/1_IM-0001-3001.dcm.png", "images/10_IM-0002-1001.dcm.png"],
    ],
    ids=["png", "dicom", "kaggle"],
)
def test_images_are_found_under_any_of_their_names(tmp_path: Path, names: list[str]) -> None:
    reports = write_archive(tmp_path / "r.tgz", REPORTS)
    files = {name: name for name in [*names, "other.png", "1/notes.txt"]}
    studies, _ = split(OpenISource(reports, write_folder(tmp_path / "images", files)))
    (first,) = studies["CXR1"].pictures
    assert (first.image_id, first.file, first.view) == (
        "CXR1_1_IM-0001-3001",
        tmp_path / "images" / names[0],
        "",
    )
    assert studies["CXR1"].skipped_pictures == {"CXR1_1_IM-0001-4001": "no such file"}
    assert [picture.file for picture in studies["CXR10"].pictures] == [tmp_path / "images" / names[1]]

    source = OpenISource(reports, write_archive(tmp_path / "images.tgz", files))
    studies, _ = split(source)
    named = [picture for study in studies.values() for picture in study.pictures]
    assert [picture.file for picture in named] == [None, None, None]
    streamed = dict(source.picture_files(frozenset(picture.image_id for picture in named)))
    assert streamed == {"CXR1_1_IM-0001-3001": names[0].encode(), "CXR10_IM-0002-1001": names[1].encode()}
    assert dict(source.picture_files(frozenset({"CXR10_IM-0002-1001"}))).keys() == {"CXR10_IM-0002-1001"}


def test_streamed_images_come_once_and_never_from_outside(tmp_path: Path) -> None:
    names = ["a/CXR2_IM-1-1.png", "b/CXR2_IM-1-1.png", "../CXR3_IM-1-1.png"]
    images = write_archive(tmp_path / "i.tgz", {name: name for name in names})
    source = OpenISource(tmp_path / "r.tgz", images)
    wanted = frozenset({"CXR2_IM-1-1", "CXR3_IM-1-1"})
    assert list(source.picture_files(wanted)) == [("CXR2_IM-1-1", b"a/CXR2_IM-1-1.png")]
    assert [entry.place for entry in source.skipped_members] == ["../CXR3_IM-1-1.png"]


def test_image_folder_that_does_not_fit(tmp_path: Path) -> None:
    reports = write_archive(tmp_path / "r.tgz", REPORTS)
    with pytest.raises(
        DataError, match=r"has none of the images that the reports name, only such as cat\.png"
    ):
        split(OpenISource(reports, write_folder(tmp_path / "cats", {"cat.png": ""})))
    with pytest.raises(DataError, match=r"there are no images in this folder"):
        split(OpenISource(reports, write_folder(tmp_path / "texts", {"a.txt": ""})))
    both = {"png/CXR10_IM-0002-1001.png": "", "dcm/10_IM-0002-1001.dcm": ""}
    with pytest.raises(DataError, match=r"1 images are there more than once:\n.*dcm.*png.*\nname the folder"):
        split(OpenISource(reports, write_folder(tmp_path / "both", both)))


def test_image_ids_that_cannot_be_used(tmp_path: Path) -> None:
    files = {
        "1.xml": report(1, "../../x", "", "CXR1_IM-1-1", "CXR1_IM-1-1"),
        "2.xml": report(2, "CXR1_IM-1-1", "CXR2_IM-1-1"),
    }
    studies, _ = split(OpenISource(write_archive(tmp_path / "r.tgz", files), tmp_path / "i.tgz"))
    assert [picture.image_id for picture in studies["CXR1"].pictures] == ["CXR1_IM-1-1"]
    assert studies["CXR1"].skipped_pictures == dict.fromkeys(
        ["../../x", ""], "its id cannot be the name of a file"
    )
    assert [picture.image_id for picture in studies["CXR2"].pictures] == ["CXR2_IM-1-1"]
    assert studies["CXR2"].skipped_pictures == {"CXR1_IM-1-1": "study CXR1 has it as well"}


@pytest.mark.parametrize("name", ["CXR10", "10", "CXR10_IM-0002", "CXR10_IM-0002-1001", "10_IM-0002-1001"])
def test_published_splits(tmp_path: Path, name: str) -> None:
    reports = write_archive(tmp_path / "r.tgz", REPORTS)
    studies, unusable = split(OpenISource(reports, splits={name: "test", "CXR1": "train"}))
    assert {study_id: study.split for study_id, study in studies.items()} == {
        "CXR1": "train",
        "CXR10": "test",
    }
    assert unusable == {"CXR2": "not in the split file"}


def test_keys_of_images() -> None:
    for name in ("CXR1_1_IM-0001-3001", "x/1_IM-0001-3001.dcm", "1_IM-0001-3001.dcm.png"):
        assert image_key(name) == "1_IM-0001-3001"
    assert image_key("CXR22_IM-0001-12012.png") == "22_IM-0001-12012"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "s.json",
            '{"train": ["CXR1_IM-0001"], "val": [{"id": "CXR2_IM-0002", "report": "x"}], "test": [3]}',
        ),
        ("s.csv", "id,split\nCXR1_IM-0001,train\nCXR2_IM-0002.png,Validate\n3,test\n"),
        ("s.tsv", "split\tnote\tuid\ntrain\t\tCXR1_IM-0001\nvalid\t\tCXR2_IM-0002\ntest\t\t3\n"),
        (
            "s.jsonl",
            '{"image_id": "CXR1_IM-0001", "split": "train"}\n'
            '{"image_id": "CXR2_IM-0002", "split": "val"}\n{"image_id": 3, "split": "test"}',
        ),
    ],
)
def test_forms_of_a_split_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_splits(tmp_path / name) == EXPECTED


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.json", '{"train": ["a"], "val": ["a"]}', r"val\[0\]: a is in train and in val"),
        ("s.json", '{"dev": ["a"]}', r"dev\[0\]: 'dev' is none of train, val, test"),
        (
            "s.json",
            '{"train": [{"name": "a"}]}',
            r"train\[0\]: expected an id, or an object with one of study_id",
        ),
        ("s.json", '{"train": "a"}', r"'train' has to be a list"),
        ("s.json", '{"train": []}', r"names nothing"),
        ("s.json", '{"train": [""]}', r"train\[0\]: no id"),
        ("s.json", '{"train": ["nan"]}', r"train\[0\]: no id"),
        ("s.csv", "id,split\nNULL,train\n", r"line 2: no id"),
        ("s.json", "{", r"not valid JSON"),
        ("s.json", '{"train": ' + "[" * 100_000, r"nested too deeply"),
        ("s.csv", "id,split\na,train\nb,holdout\n", r"line 3: 'holdout' is none of"),
        ("s.csv", "id,splt\na,train\n", r"missing: 'split'; did you mean 'splt'"),
        ("s.csv", "name,split\na,train\n", r"line 2: columns are missing: 'study_id'"),
    ],
)
def test_wrong_split_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_splits(tmp_path / name)


def test_absent_split_file(tmp_path: Path) -> None:
    for name in ("no.json", "no.csv"):
        with pytest.raises(MissingFileError, match=name):
            read_splits(tmp_path / name)


def test_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"train": ["a"]}', encoding="utf-8-sig")
    assert read_splits(tmp_path / "s.json") == {"a": "train"}


def test_list_of_rows_in_json(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps([{"id": "a", "split": "test"}]))
    assert read_splits(tmp_path / "s.json") == {"a": "test"}


def test_studies_get_the_split_of_any_of_their_names() -> None:
    names = {"s1": ["s1", "a"], "s2": ["s2", "b", "c"], "s3": ["s3"]}
    assert assign_splits({"a": "train", "b": "val", "c": "val"}, names) == {"s1": "train", "s2": "val"}
    with pytest.raises(DataError, match=r"1 studies are in more than one split.*\n  s2: test, val"):
        assign_splits({"b": "val", "c": "test"}, names)
    with pytest.raises(DataError, match=r"none of the 3 studies; its ids are such as 'x', .* 's1'"):
        assign_splits({"x": "val"}, names)
