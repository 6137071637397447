from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.datasets.datasets.annotations import read_annotations


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{'annotations': []}", "filter_cap.json: not valid JSON"),
        ('{"annotations": [{"image_id": "a", ', "filter_cap.json: not valid JSON"),
        ([], 'a list under the key "annotations"'),
        ({"annotation": []}, 'a list under the key "annotations"'),
        ({"annotations": []}, "is empty"),
        (
            {"annotations": [{"image_id": "a", "caption": "x"}, {"image_id": "b"}]},
            r'\[1\]: the key "caption"',
        ),
        ({"annotations": [{"caption": "x"}]}, r'annotations\[0\]: the key "image_id" is missing'),
        ({"annotations": ["a"]}, r"annotations\[0\]: expected an object, found str"),
        ({"annotations": [{"image_id": "", "caption": "x"}]}, r'\[0\]: "image_id" must be'),
        ({"annotations": [{"image_id": "a", "caption": None}]}, r'\[0\]: "caption" must be a text'),
        ({"annotations": [{"image_id": "a", "caption": "x", "study_id": []}]}, r'\[0\]: "study_id" must be'),
        ({"annotations": [{"image_id": "a", "caption": "x", "split": 1}]}, r'\[0\]: "split" must be'),
    ],
)
def test_malformed_file_is_named_with_the_place(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_annotations(write(tmp_path, content))
    assert "filter_cap.json" in str(caught.value)


def test_many_problems_are_counted_and_the_first_ones_named(tmp_path: Path) -> None:
    path = write(tmp_path, {"annotations": [{"image_id": str(i)} for i in range(40)]})
    with pytest.raises(DataError, match=r"40 unusable annotations(.|\n)*annotations\[4\](.|\n)*and 35 more"):
        read_annotations(path)


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"filter_cap\.json(.|\n)*build_info\.storage"):
        read_annotations(tmp_path / "filter_cap.json")
