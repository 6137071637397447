"""Tables of images and reports by the names of their columns: what is read, and all that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xraygpt.common.errors import DataError
from xraygpt.datasets.datasets.annotations import Columns, read_annotation_tables
from xraygpt.datasets.datasets.images import LooseImages

COLUMNS = Columns(image="file", caption="report", split="part", study_id="exam")
CSV = (
    'exam,file,report,part\n7,p1/a.png,"Clear.\nNo effusion.",Train\n7,b,Edema.,validation\n8,c,Größe.,TEST\n'
)
JSON = [
    {"exam": 7, "file": "p1/a.png", "report": "Clear.\nNo effusion.", "part": "train", "views": [1]},
    {"exam": 7, "file": "b", "report": "Edema.", "part": "val"},
    {"exam": 8, "file": "c", "report": "Größe.", "part": "test"},
]


def image_folder(folder: Path, *names: str) -> LooseImages:
    for name in names:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return LooseImages(folder / "images")


def table(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", CSV),
        ("t.csv", "\ufeff" + CSV.replace("\n", "\r\n").replace("Clear.\r\n", "Clear.\n")),
        ("t.tsv", CSV.replace(",", "\t")),
        ("t.json", json.dumps(JSON)),
        ("t.json", json.dumps({"annotations": JSON})),
        ("t.jsonl", "\n".join(map(json.dumps, JSON))),
    ],
)
def test_every_form_of_table_says_the_same(tmp_path: Path, name: str, text: str) -> None:
    images = image_folder(tmp_path, "p1/a.png", "b.jpg", "c.jpeg")
    rows = read_annotation_tables([table(tmp_path, name, text)], COLUMNS, images)
    assert [(row.image_id, row.caption, row.split, row.study_id) for row in rows] == [
        ("p1/a.png", "Clear.\nNo effusion.", "train", "7"),
        ("b", "Edema.", "val", "7"),
        ("c", "Größe.", "test", "8"),
    ]


def test_split_and_study_are_read_where_they_are_there(tmp_path: Path) -> None:
    plain = table(tmp_path, "a.csv", "image_id,caption\na,x\n")
    full = table(tmp_path, "b.csv", "image_id,caption,split,study_id\nb,y,val,s\n")
    rows = read_annotation_tables([plain, full], Columns(), None)
    assert [(row.image_id, row.split, row.study_id) for row in rows] == [
        ("a", "train", "a"),
        ("b", "val", "s"),
    ]


def test_missing_columns_of_all_tables_are_named_with_those_there_and_the_nearest(tmp_path: Path) -> None:
    one = table(tmp_path, "a.csv", "file,reports,part,exam\na,x,train,1\n")
    two = table(tmp_path, "b.jsonl", '{"path": "a", "report": "x", "part": "train"}\n')
    with pytest.raises(DataError) as caught:
        read_annotation_tables([one, two], COLUMNS, None)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "a.csv: has no column 'report'; did you mean 'reports'? There are: file, reports, part" in lines[0]
    assert "b.jsonl: has no column 'file'. There are: path, report, part" in lines[1]
    assert "b.jsonl: has no column 'exam'." in lines[2]


@pytest.mark.parametrize(("name", "text"), [("t.csv", "file,report,part,exam\n"), ("t.json", "[]")])
def test_table_without_rows(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(DataError, match=rf"{name}: has no rows"):
        read_annotation_tables([table(tmp_path, name, text)], COLUMNS, None)


def test_all_unusable_rows_are_named_by_their_lines(tmp_path: Path) -> None:
    images = image_folder(tmp_path, "a.png", "b.png", "scan.dcm")
    (tmp_path / "outside.png").touch()
    text = (
        'file,report,part,exam\na,"two\nlines",train,1\na.png,x,train,1\nb,  ,train,1\nabsent,x,train,1\n'
        "../outside,x,train,1\n,x,train,1\nscan.dcm,x,dev,1\n"
    )
    with pytest.raises(DataError) as caught:
        read_annotation_tables([table(tmp_path, "t.csv", text)], COLUMNS, images)
    path = tmp_path / "t.csv"
    assert str(caught.value).splitlines() == [
        f"{path}: rows cannot be used",
        "1 images are named twice:",
        f"  {path}: line 4: a.png (before at {path}: line 2)",
        "1 rows have no caption:",
        f"  {path}: line 5",
        f"1 images are named but absent from {tmp_path}/images (.jpg or .jpeg or .png):",
        f"  {path}: line 6: absent",
        "1 paths lead out of the folder of the images:",
        f"  {path}: line 7: ../outside",
        "1 rows name no image:",
        f"  {path}: line 8",
        "1 splits are none of train, val, test:",
        f"  {path}: line 9: 'dev'",
    ]


def test_rows_of_a_json_list_are_named_by_their_number(tmp_path: Path) -> None:
    path = table(tmp_path, "t.json", json.dumps([*JSON, {**JSON[0], "file": "d", "report": None}]))
    with pytest.raises(DataError, match=r"1 rows have no caption:\n  .*t\.json: .*\[3\]"):
        read_annotation_tables([path], COLUMNS, None)


def test_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(CSV.encode("latin-1"))
    with pytest.raises(DataError, match=r"t\.csv: line 5 is not UTF-8"):
        read_annotation_tables([path], COLUMNS, None)


STUDIES = [
    {"id": "s1", "report": "Clear.", "image_path": ["s1/0.png", "s1/1.png"], "split": "train"},
    {"id": "nan", "report": "Edema.", "image_path": ["s2/0.png"], "split": "test"},
]


@pytest.mark.parametrize("by_split", [True, False])
def test_studies_with_several_images_give_a_row_for_each(tmp_path: Path, by_split: bool) -> None:
    content = {row["split"]: [row] for row in STUDIES} if by_split else STUDIES
    path = table(tmp_path, "annotation.json", "\ufeff" + json.dumps(content))
    columns = Columns(image="image_path", caption="report", study_id="id")
    rows = read_annotation_tables([path], columns, None)
    assert [(row.image_id, row.caption, row.split, row.study_id) for row in rows] == [
        ("s1/0.png", "Clear.", "train", "s1"),
        ("s1/1.png", "Clear.", "train", "s1"),
        ("s2/0.png", "Edema.", "test", "s2/0.png"),
    ]


def test_images_without_reports_may_be_lists_too(tmp_path: Path) -> None:
    path = table(tmp_path, "t.json", json.dumps(STUDIES))
    rows = read_annotation_tables([path], Columns(image="image_path", caption=None), None)
    assert [(row.image_id, row.split) for row in rows] == [
        ("s1/0.png", "test"),
        ("s1/1.png", "test"),
        ("s2/0.png", "test"),
    ]


@pytest.mark.parametrize("missing", ["", "nan", "NA", " NULL ", "<NA>", "none"])
def test_a_missing_id_is_no_id(tmp_path: Path, missing: str) -> None:
    text = f"image_id,caption,split,study_id\na,x,{missing},{missing}\nb,x,{missing},{missing}\n"
    rows = read_annotation_tables([table(tmp_path, "t.csv", text)], Columns(), None)
    assert [(row.split, row.study_id) for row in rows] == [("train", "a"), ("train", "b")]
    text = f"image_id,caption\n{missing},x\nb,{missing}\n"
    with pytest.raises(DataError, match=r"1 rows name no image:(.|\n)*line 2(.|\n)*1 rows have no caption"):
        read_annotation_tables([table(tmp_path, "t.csv", text)], Columns(), None)


def test_a_nested_column_is_not_called_missing(tmp_path: Path) -> None:
    path = table(tmp_path, "t.json", json.dumps([{"image_id": "a", "caption": ["x", "y"]}]))
    with pytest.raises(
        DataError, match=r"t\.json: row \[0\]: 'caption' has to be a text, not a list"
    ) as caught:
        read_annotation_tables([path], Columns(), None)
    assert "no column" not in str(caught.value)
