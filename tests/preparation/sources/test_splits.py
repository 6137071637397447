from __future__ import annotations

import json
from pathlib import Path

import pytest

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.preparation.sources.splits import assign_splits, read_splits

EXPECTED = {"CXR1_IM-0001": "train", "CXR2_IM-0002": "val", "3": "test"}


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
