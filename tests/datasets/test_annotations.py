from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.datasets.datasets.annotations import Annotation, Annotations, read_annotations


def write(folder: Path, content: Any) -> Path:
    path = folder / "filter_cap.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_split_is_train_unless_it_says_otherwise(tmp_path: Path) -> None:
    rows = [
        {"image_id": "a", "caption": "x"},
        {"image_id": 7, "caption": "y", "split": "validate", "more": 1},
    ]
    got = read_annotations(write(tmp_path, {"annotations": rows}))
    assert [(row.image_id, row.caption, row.split) for row in got] == [("a", "x", "train"), ("7", "y", "val")]


def test_an_image_is_a_study_of_its_own_unless_it_says_otherwise(tmp_path: Path) -> None:
    rows = [
        {"image_id": "a", "caption": "x"},
        {"image_id": "b", "caption": "x", "study_id": "s"},
        {"image_id": "c", "caption": "x", "study_id": 5},
    ]
    got = read_annotations(write(tmp_path, {"annotations": rows}))
    assert [row.study_id for row in got] == ["a", "s", "5"]


R2GEN = {
    "train": [
        {"id": "s1", "report": "Clear.", "image_path": ["s1/0.png", "s1/1.png"], "split": "train"},
        {"id": None, "report": "Edema.", "image_path": ["s2/0.png"]},
    ],
    "val": [],
    "test": [{"id": "NA", "report": "Effusion.", "image_path": "s3/0.png", "split": "nan"}],
}


@pytest.mark.parametrize("flat", [False, True])
def test_r2gen_files_give_a_row_for_each_image(tmp_path: Path, flat: bool) -> None:
    studies = [{**row, "split": split} for split, rows in R2GEN.items() for row in rows]
    got = read_annotations(write(tmp_path, studies if flat else R2GEN))
    assert [(row.image_id, row.caption, row.split, row.study_id) for row in got] == [
        ("s1/0.png", "Clear.", "train", "s1"),
        ("s1/1.png", "Clear.", "train", "s1"),
        ("s2/0.png", "Edema.", "train", "s2/0.png"),
        ("s3/0.png", "Effusion.", "test", "s3/0.png"),
    ]


def test_missing_studies_and_splits_are_none(tmp_path: Path) -> None:
    rows = [
        {"image_id": name, "caption": " x ", "study_id": study, "split": split}
        for name, study, split in (
            ("a", "nan", "NA"),
            ("b", "NA", None),
            ("c", " ", "NULL"),
            ("d", None, "Val"),
        )
    ]
    got = read_annotations(write(tmp_path, {"annotations": rows}))
    assert [(row.study_id, row.split) for row in got] == [
        ("a", "train"),
        ("b", "train"),
        ("c", "train"),
        ("d", "val"),
    ]
    assert got[0].caption == " x "


@pytest.mark.parametrize("text", ["[" * 50_000, '{"annotations": [{"image_id": ' + "9" * 6000 + "}]}"])
def test_deep_nesting_and_endless_numbers_are_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"filter_cap\.json"):
        read_annotations(write(tmp_path, text))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{'annotations': []}", "filter_cap.json: a key: not valid JSON"),
        ('{"annotations": [{"image_id": "a", ', r"filter_cap.json: row \[0\]: not valid JSON"),
        ([], "is empty"),
        ({"annotation": []}, 'a list of objects, or one under the key "annotations"'),
        ({"annotations": []}, "is empty"),
        (
            {"annotations": [{"image_id": "a", "caption": "x"}, {"image_id": "b"}]},
            r'\[1\]: the key "caption"',
        ),
        ({"annotations": [{"caption": "x"}]}, r'row \[0\]: the key "image_id" is missing'),
        ({"annotations": ["a"]}, r"row \[0\]: expected an object, found str"),
        ({"annotations": [{"image_id": "", "caption": "x"}]}, r'\[0\]: "image_id" must name an'),
        ({"annotations": [{"image_id": "NA", "caption": "x"}]}, r'\[0\]: "image_id" must name an'),
        ({"annotations": [{"image_id": ["a"], "caption": "x"}]}, r'"image_id" must be .*, not a list'),
        (
            {"train": [{"id": "s", "report": "x", "image_path": []}]},
            r"row train\[0\]: 'image_path' is an empty",
        ),
        (
            {"test": [{"id": "s", "report": "x", "image_path": "a", "split": "val"}]},
            "stands under 'test' and",
        ),
        ({"train": [{"id": "s", "image_path": ["a"]}]}, r'row train\[0\], image_path\[0\]: the key "report"'),
        ({"annotations": [{"image_id": "a", "caption": None}]}, r"row \[0\]: the report is missing"),
        ({"annotations": [{"image_id": "a", "caption": "x", "study_id": []}]}, r'\[0\]: "study_id" must be'),
        ({"annotations": [{"image_id": "a", "caption": "x", "split": {}}]}, r'\[0\]: "split" must be'),
    ],
)
def test_malformed_file_is_named_with_the_place(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_annotations(write(tmp_path, content))
    assert "filter_cap.json" in str(caught.value)


def test_many_problems_are_counted_and_the_first_ones_named(tmp_path: Path) -> None:
    path = write(tmp_path, {"annotations": [{"image_id": str(i)} for i in range(40)]})
    with pytest.raises(DataError, match=r"40 unusable annotations(.|\n)*row \[4\](.|\n)*and 35 more"):
        read_annotations(path)


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"filter_cap\.json(.|\n)*build_info\.storage"):
        read_annotations(tmp_path / "filter_cap.json")


def test_packed_annotations_are_a_sequence() -> None:
    rows = [
        Annotation(f"i{number}", "Größe\n", split, "s", f"f.json: row [{number}]", {"view": "PA"})
        for number, split in enumerate(("train", "val", "train", "test", "train"))
    ]
    packed = Annotations(rows)
    assert list(packed) == rows
    assert list(pickle.loads(pickle.dumps(packed))) == rows
    assert (len(packed), packed[-1], packed.splits()) == (5, rows[4], ["test", "train", "val"])
    assert list(packed.of_split("train")) == rows[::2]
    some = packed[1:4]
    assert (list(some), some.splits(), list(some.of_split("train"))) == (
        rows[1:4],
        packed.splits(),
        rows[2:3],
    )
    assert list(packed.of_split("other")) == []
    with pytest.raises(IndexError):
        packed[5]


def test_files_are_joined_in_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path in paths:
        path.write_text(json.dumps([{"image_id": path.stem, "caption": "x"}]))
    assert [row.place for row in read_annotations(*paths)] == [f"{path}: row [0]" for path in paths]
    paths[1].write_text("[]")
    with pytest.raises(DataError, match=r"two\.json: the list of annotations is empty"):
        read_annotations(*paths)
