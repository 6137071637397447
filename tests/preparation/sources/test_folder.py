from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from xraygpt.common.errors import ConfigError, DataError, MissingFileError
from xraygpt.preparation.sources.folder import FolderSource, Join
from xraygpt.preparation.study import Study, Unusable

TEXTS = {"findings": "The heart  is normal.", "impression": "No  acute process."}


def row(image: str, **values: str) -> dict[str, str]:
    common = {"study_id": image, "patient_id": "p", "view": "Frontal", "kind": "report", "split": "train"}
    return {"image": image, **common, **TEXTS, **values}


def write(folder: Path, *rows: dict[str, str], drop: tuple[str, ...] = ()) -> Path:
    """Write the table, and an image for each row whose path stays in the folder."""
    for entry in rows:
        if entry["image"] and ".." not in entry["image"] and not entry["image"].startswith("/"):
            (folder / entry["image"]).parent.mkdir(parents=True, exist_ok=True)
            (folder / entry["image"]).write_bytes(b"not opened")
    columns = [name for name in row("x") if name not in drop]
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder / "table.csv"


def split(source: FolderSource) -> tuple[dict[str, Study], dict[str, str]]:
    entries = list(source.studies())
    studies = {entry.study_id: entry for entry in entries if isinstance(entry, Study)}
    return studies, {entry.place: entry.reason for entry in entries if isinstance(entry, Unusable)}


def test_rows_are_grouped_by_study_wherever_they_stand(tmp_path: Path) -> None:
    table = write(
        tmp_path,
        row("img/a.jpg", study_id="s1"),
        row("img/b.png", study_id="s2", split="Validate", patient_id="q"),
        row("./img/c.jpg", study_id="s1", view="Lateral", findings="", impression="No acute process."),
    )
    studies, unusable = split(FolderSource(table))
    assert unusable == {}
    first, second = studies["s1"], studies["s2"]
    assert first.sections == {"findings": "The heart is normal.", "impression": "No acute process."}
    assert (first.patient_id, first.split, second.split) == ("p", "train", "val")
    assert [(p.image_id, p.file, p.view) for p in first.pictures] == [
        ("a", tmp_path / "img/a.jpg", "Frontal"),
        ("c", tmp_path / "img/c.jpg", "Lateral"),
    ]


def test_only_images_and_one_text_are_needed(tmp_path: Path) -> None:
    (tmp_path / "images/p1").mkdir(parents=True)
    (tmp_path / "images/p2").mkdir()
    for name in ("p1/x.png", "p2/x.png"):
        (tmp_path / "images" / name).touch()
    table = tmp_path / "t.jsonl"
    rows = [{"file": "p1/x.png", "text": "IMPRESSION: Normal."}, {"file": "p2/x.png", "text": "Clear."}]
    table.write_text("\n".join(map(json.dumps, rows)))
    columns = {"image": "file", "report": "text"}
    studies, _ = split(FolderSource(table, tmp_path / "images", columns))
    assert {name: study.sections for name, study in studies.items()} == {
        "p1_x": {"impression": "Normal."},
        "p2_x": {"findings": "Clear."},
    }
    assert all(study.split is None and study.patient_id == "" for study in studies.values())


def test_rows_can_be_chosen(tmp_path: Path) -> None:
    table = write(
        tmp_path,
        row("a.jpg", study_id="s1"),
        row("b.jpg", study_id="s1", view="Lateral"),
        row("c.jpg", study_id="s2", view="Lateral", split="nonsense"),
        row("d.jpg", study_id="s3", kind="note"),
    )
    studies, unusable = split(FolderSource(table, where={"view": "frontal", "kind": "report"}))
    assert list(studies) == ["s1"]
    assert [picture.image_id for picture in studies["s1"].pictures] == ["a"]
    assert studies["s1"].skipped_pictures == {"b": "view is 'Lateral'"}
    assert unusable == {"table.csv: line 4": "view is 'Lateral'", "table.csv: line 5": "kind is 'note'"}
    with pytest.raises(DataError, match=r"no row has view=PA; view is one of Frontal, Lateral"):
        split(FolderSource(table, where={"view": "PA"}))


def test_ids_do_not_depend_on_the_rows_that_are_chosen(tmp_path: Path) -> None:
    table = write(tmp_path, row("p1/x.jpg"), row("p2/x.jpg", view="Lateral"))
    studies, _ = split(FolderSource(table, where={"view": "Frontal"}))
    assert [picture.image_id for picture in studies["p1/x.jpg"].pictures] == ["p1_x"]


def test_images_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").touch()
    folder = tmp_path / "in"
    folder.mkdir()
    images = ["a.jpg", "absent.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "link.jpg", "inner.jpg"]
    table = write(folder, *(row(image, study_id="s") for image in images))
    for name in ("absent.jpg", "link.jpg", "inner.jpg"):
        (folder / name).unlink()
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "inner.jpg").symlink_to(folder / "a.jpg")
    studies, _ = split(FolderSource(table))
    assert [picture.image_id for picture in studies["s"].pictures] == ["a", "inner"]
    assert sorted(studies["s"].skipped_pictures.values()) == [
        "is a link that leads out of the images' folder",
        "its path is absolute",
        "its path leads upwards (..)",
        "no such file",
    ]


def test_rows_that_give_nothing_are_listed(tmp_path: Path) -> None:
    table = write(
        tmp_path,
        row("a.jpg"),
        row("./a.jpg", study_id="other"),
        row("", study_id="s"),
        row("b.jpg", study_id="torn"),
        row("c.jpg", study_id="torn", findings="Another text."),
        row("d.jpg", study_id="mixed"),
        row("e.jpg", study_id="mixed", patient_id="q"),
    )
    studies, unusable = split(FolderSource(table))
    assert list(studies) == ["a.jpg"]
    assert unusable == {
        "table.csv: line 3": "its image is that of line 2",
        "table.csv: line 4": "names no image",
        "torn": "its rows differ in findings (line 5, line 6)",
        "mixed": "its rows differ in patient (line 7, line 8)",
    }


def test_images_in_another_folder_are_an_error(tmp_path: Path) -> None:
    table = write(tmp_path, row("a.jpg"), row("b.jpg"))
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(
        DataError, match=r"none of its images can be used\. Is .*elsewhere(.|\n)*'a.jpg': no such file"
    ):
        split(FolderSource(table, tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a.jpg", split="dev")], r"1 splits are none of train, val, test:\n.*line 2: 'dev'"),
        (
            [row("a.jpg", study_id="7"), row("b.jpg", study_id="7", split="validate")],
            r"1 studies are in more than one split:\n  7: train, val",
        ),
        (
            [row("a.jpg"), row("b.jpg", split="test"), row("c.jpg", patient_id="")],
            r"1 patients are in more than one split:\n  p: test, train",
        ),
    ],
)
def test_bad_splits_are_refused(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(FolderSource(write(tmp_path, *rows)))


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    table = write(tmp_path, row("a.jpg"), drop=("findings", "impression", "view"))
    with pytest.raises(DataError, match=r"neither 'findings' nor 'impression' is there"):
        split(FolderSource(table))
    with pytest.raises(DataError, match=r"missing: 'text', 'studyid'; did you mean 'study_id'"):
        split(FolderSource(table, columns={"report": "text", "study": "studyid"}))
    with pytest.raises(DataError, match=r"missing: 'view'"):
        split(FolderSource(table, columns={"report": "kind"}, where={"view": "PA"}))
    with pytest.raises(ConfigError, match="name it or them"):
        FolderSource(table, columns={"report": "kind", "findings": "findings"})


def test_tables_without_rows_or_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the table has no rows"):
        split(FolderSource(write(tmp_path)))
    with pytest.raises(MissingFileError, match=r"nowhere\.csv"):
        split(FolderSource(tmp_path / "nowhere.csv"))


@pytest.mark.parametrize("missing", ["nan", "NA", "NULL", " ", "<NA>", "None"])
def test_a_missing_id_is_no_id(tmp_path: Path, missing: str) -> None:
    table = write(
        tmp_path,
        row("a.jpg", study_id=missing, patient_id=missing, findings="Edema.", view=missing),
        row("b.jpg", study_id=missing, patient_id=missing, split="test", impression=missing),
        row(missing),
    )
    studies, unusable = split(FolderSource(table))
    assert [(s.study_id, s.patient_id, s.split) for s in studies.values()] == [
        ("a", "", "train"),
        ("b", "", "test"),
    ]
    assert studies["a"].pictures[0].view == ""
    assert studies["b"].sections == {"findings": "The heart is normal."}
    assert unusable == {"table.csv: line 4": "names no image"}


def write_two_tables(folder: Path) -> tuple[Path, Path]:
    """The form in which IU X-ray is passed on; `image` in the table of reports is no file."""
    reports, images = folder / "reports.csv", folder / "projections.csv"
    texts = ["1,Xray PA,Clear.,Normal.", "2,Xray PA,Edema.,Edema.", "3,Xray PA,Clear.,Normal."]
    reports.write_text("\n".join(["uid,image,findings,impression", *texts]))
    files = ["1,1.png,Frontal", "2,2.png,Frontal", "1,1b.png,Lateral", "NA,4.png,", "5,5.png,"]
    images.write_text("\n".join(["uid,filename,projection", *files]))
    for name in ("1.png", "1b.png", "2.png", "4.png", "5.png"):
        (folder / name).touch()
    return reports, images


def test_reports_and_file_names_in_two_tables(tmp_path: Path) -> None:
    reports, images = write_two_tables(tmp_path)
    columns = {"image": "filename", "view": "projection"}
    for table, other in ((reports, images), (images, reports)):
        studies, unusable = split(FolderSource(table, columns=columns, join=Join(other, "uid")))
        assert {name: [(p.image_id, p.view) for p in study.pictures] for name, study in studies.items()} == {
            "1": [("1", "Frontal"), ("1b", "Lateral")],
            "2": [("2", "Frontal")],
        }
        assert studies["2"].sections == {"findings": "Edema.", "impression": "Edema."}
        assert unusable == {
            "projections.csv: line 5": "has no uid",
            "projections.csv: line 6": "no row of reports.csv has its uid, 5",
            "reports.csv: line 4": "no row of projections.csv has its uid, 3",
        }


def test_the_first_table_counts_where_both_have_a_column(tmp_path: Path) -> None:
    reports, images = write_two_tables(tmp_path)
    for table in (reports, images):
        head, *lines = table.read_text().splitlines()
        table.write_text("\n".join([f"{head},view", *(f"{line},{table.stem}" for line in lines)]))
    for table, other in ((reports, images), (images, reports)):
        source = FolderSource(table, columns={"image": "filename"}, join=Join(other, "uid"))
        assert split(source)[0]["2"].pictures[0].view == table.stem


def test_one_of_two_tables_alone_names_the_other(tmp_path: Path) -> None:
    reports, images = write_two_tables(tmp_path)
    hint = rf"--join {images} --on uid \(it has the columns uid, filename, projection\)"
    with pytest.raises(DataError, match=rf"'Xray PA': no such file(.|\n)*{hint}"):
        split(FolderSource(reports))
    with pytest.raises(
        DataError, match=rf"neither 'findings' nor 'impression' is there(.|\n)*--join {reports} --on uid"
    ):
        split(FolderSource(images, columns={"image": "filename"}))
    with pytest.raises(DataError, match=r"line 2: columns are missing: 'nr'"):
        split(FolderSource(images, join=Join(reports, "nr")))


def test_reports_must_be_told_apart_by_the_column_that_joins(tmp_path: Path) -> None:
    reports, images = write_two_tables(tmp_path)
    images.write_text("image,filename\nXray PA,1.png\n")
    source = FolderSource(images, columns={"image": "filename"}, join=Join(reports, "image"))
    with pytest.raises(DataError, match=r"reports.csv: line 3: image Xray PA is that of line 2; join by"):
        split(source)


def r2gen(folder: Path, **changes: object) -> dict[str, object]:
    """A study as R2Gen's annotation files have it, with two images that are there."""
    name = str(changes.get("id", "CXR1"))
    (folder / name).mkdir()
    images = [f"{name}/{number}.png" for number in range(2)]
    for image in images:
        (folder / image).touch()
    return {"id": name, "report": "Clear lungs.", "image_path": images, "split": "train", **changes}


R2GEN = {"image": "image_path", "report": "report", "study": "id"}


@pytest.mark.parametrize("by_split", [True, False])
def test_several_images_in_one_row(tmp_path: Path, by_split: bool) -> None:
    first, second = r2gen(tmp_path), r2gen(tmp_path, id="CXR2", split="test")
    content = {"train": [first], "val": [], "test": [second]} if by_split else [first, second]
    (tmp_path / "annotation.json").write_text(json.dumps(content), encoding="utf-8-sig")
    studies, unusable = split(FolderSource(tmp_path / "annotation.json", columns=R2GEN))
    assert {study.study_id: study.split for study in studies.values()} == {"CXR1": "train", "CXR2": "test"}
    assert [picture.image_id for picture in studies["CXR2"].pictures] == ["CXR2_0", "CXR2_1"]
    assert unusable == {}


def test_nested_columns_are_called_so(tmp_path: Path) -> None:
    table = tmp_path / "t.json"
    table.write_text(json.dumps([r2gen(tmp_path, report={"en": "Clear."})]))
    with pytest.raises(DataError, match=r"'report' has to be a text or a number, not an object"):
        split(FolderSource(table, columns=R2GEN))
    table.write_text(json.dumps([r2gen(tmp_path, id="CXR2", findings=["Clear."])]))
    with pytest.raises(DataError, match=r"'findings' has to be a text or a number, not a list"):
        split(FolderSource(table, columns={"image": "image_path"}))
