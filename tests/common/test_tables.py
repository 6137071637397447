from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from xraygpt.common import tables
from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.common.tables import read_table

ROWS = [{"id": "a", "text": "Größe, normal."}, {"id": "b", "text": "two\nlines"}]
CSV = 'id,text\na,"Größe, normal."\nb,"two\nlines"\n'


def values(path: Path, *columns: str) -> list[dict[str, str]]:
    return [row.values for row in read_table(path, columns)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", CSV),
        ("t.csv", "\ufeff" + CSV.replace("\n", "\r\n").replace("two\r\n", "two\n") + "\r\n\r\n"),
        ("t.TSV", "id\ttext\na\tGröße, normal.\nb\t'two\nlines'\n".replace("'", '"')),
        ("t.jsonl", "".join(json.dumps(row) + "\n\n" for row in ROWS)),
        ("t.ndjson", "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)),
        ("t.json", json.dumps(ROWS)),
        ("t.json", json.dumps({"annotations": ROWS, "version": 1})),
    ],
)
def test_all_forms_give_the_same_rows_compressed_or_not(tmp_path: Path, name: str, text: str) -> None:
    plain, packed = tmp_path / name, tmp_path / f"{name}.gz"
    plain.write_bytes(text.encode())
    packed.write_bytes(gzip.compress(text.encode(), mtime=0))
    assert values(plain, "id", "text") == ROWS
    assert values(packed) == ROWS


def test_rows_know_where_they_stand(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('id,text\na,"1\n2"\n\nb,3\n')
    (tmp_path / "t.jsonl").write_text('{"id": 1}\n\n{"id": 2}')
    (tmp_path / "t.json").write_text('[{"id": 1}, {"id": 2}]')
    places = [
        [row.position for row in read_table(tmp_path / f"t.{kind}")] for kind in ("csv", "jsonl", "json")
    ]
    assert places == [["line 2", "line 5"], ["line 1", "line 3"], ["row [0]", "row [1]"]]
    assert next(read_table(tmp_path / "t.json")).place == f"{tmp_path / 't.json'}: row [0]"


def test_json_values_become_text(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 7, "b": 0.5, "c": null, "d": true, "e": [1], "f": {}, "g": "\\ud800x"}')
    assert values(path) == [{"a": "7", "b": "0.5", "c": "", "d": "true", "g": "?x"}]
    with pytest.raises(DataError, match=r"line 1: 'e' has to be a text or a number"):
        values(path, "e")


@pytest.mark.parametrize("text", ["image,findngs\na,b\n", '[{"image": 1, "findngs": 2}]'])
def test_missing_columns_are_named_with_the_nearest(tmp_path: Path, text: str) -> None:
    path = tmp_path / ("t.csv" if text.startswith("image") else "t.json")
    path.write_text(text)
    expected = r"missing: 'findings'; did you mean 'findngs'\?, 'split' \(there are: image, findngs\)"
    with pytest.raises(DataError, match=expected):
        values(path, "image", "findings", "split")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a,b\n1,2\n1,2,3\n", r"line 3 has 3 values and the table 2 columns"),
        ("t.csv", b"a,b\n1\n", r"line 2 has 1 values"),
        ("t.csv", b"a,b,a\n1,2,3\n", r"names columns twice: a"),
        ("t.csv", b'a,b\n1,"open\n2,3\n', r"line 2: .*quotation mark left open"),
        ("t.csv", b"a,b\n1,2\n1,\xe4\n", r"line 3 is not UTF-8 .* at byte 2"),
        ("t.csv", b"", r"the file is empty"),
        ("t.csv", b"<!DOCTYPE html><html>Sign in", r"a web page, not a table"),
        ("t.csv", b"version https://git-lfs.github.com/spec/v1\noid", r"a Git-LFS pointer"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), r"line 1 is not UTF-8"),
        ("t.csv.gz", b"a,b\n1,2\n", r"is called \.gz and is not compressed"),
        (
            "t.csv.gz",
            gzip.compress(b"a,b\n" * 9000, mtime=0)[:-20],
            r"damaged after line \d+ .*download it again",
        ),
        ("t.json", b'[{"a": 1},', r"row \[1\]: not valid JSON: Expecting value"),
        ("t.json", b'[{"a": 1}', r"not valid JSON after row \[0\]: expected ','"),
        ("t.json", b'[{"a": 1} {"a": 2}]', r"after row \[0\]: expected ','"),
        ("t.json", b'[{"a": 1}] x', r"after row \[0\]: something follows"),
        ("t.json", b'[{"a": 1}, {"a" 2}]', r"row \[1\]: not valid JSON"),
        ("t.json", b'[{"a": 1}, {"a": "\xe4"}]', r"not UTF-8 .*save it as UTF-8"),
        ("t.json", b"[" + b"9" * 6000 + b"]", r"row \[0\]: not readable as JSON"),
        ("t.json", b'[{"a": ' + b"[" * 100_000, r"row \[0\]: .*nested too deeply"),
        (
            "t.json",
            b'{"train": [{"a": 1, "split": "test"}]}',
            r"train\[0\]: stands under 'train' and .* 'test'",
        ),
        ("t.json", b" ", r"expected a list of objects"),
        (
            "t.json.gz",
            gzip.compress(b"[" + b'{"a": 1},' * 90000, mtime=0)[:-20],
            r"damaged .*download it again",
        ),
        ("t.json", b'{"rows": []}', r'one under the key "annotations"'),
        ("t.json", b"[3]", r"row \[0\]: expected an object, found int"),
        ("t.json", b"[" * 100_000, r"nested too deeply"),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', r"line 2: not valid JSON"),
        ("t.xlsx", b"PK", r"not known as a table; one of \.csv"),
    ],
)
def test_damage_is_named_with_its_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        values(path)
    assert str(path) in str(caught.value)


def test_endless_lines_and_values_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(tables, "_CHUNK_BYTES", 100)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1" * 5000))
    with pytest.raises(DataError, match=r"line 2 is longer than"):
        values(tmp_path / "t.csv.gz")
    (tmp_path / "t.json").write_bytes(b'[{"a": 1}, {"a": "' + b"x" * 50_000)
    with pytest.raises(DataError, match=r"row \[1\]: .*too long a value: Unterminated string"):
        values(tmp_path / "t.json")


def test_what_a_small_file_unfolds_to_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "t.json.gz"
    with gzip.open(path, "wb", 1) as file:
        for _ in range(16):
            file.write(b" " * (4 << 20))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"expected a list of objects"):
        values(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_json_is_the_same_wherever_it_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    rows = [{"a": 123456, "b": "ä\n[{,"}, {"a": -1.5e3, "b": None}, {"a": True, "c": "x"}]
    monkeypatch.setattr(tables, "_CHUNK_BYTES", size)
    path = tmp_path / "t.json"
    expected = [
        {"a": "123456", "b": "ä\n[{,"},
        {"a": "-1500.0", "b": ""},
        {"a": "true", "c": "x"},
    ]
    for text in (json.dumps(rows), json.dumps({"info": {"a": [1]}, "n": 12, "annotations": rows}, indent=1)):
        path.write_text(text, encoding="utf-8-sig")
        assert values(path) == expected


R2GEN = {
    "train": [{"id": "s1", "report": "Normal.", "image_path": ["s1/0.png", "s1/1.png"], "split": "train"}],
    "validate": [{"id": "s2", "report": "Normal.", "image_path": ["s2/0.png"], "tags": {"a": 1}}],
    "test": [],
}


def test_lists_by_split_with_several_images_a_row(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(R2GEN))
    rows = list(read_table(path, ("id", "image_path"), each="image_path"))
    assert [(r.values["id"], r.values["image_path"], r.values["split"]) for r in rows] == [
        ("s1", "s1/0.png", "train"),
        ("s1", "s1/1.png", "train"),
        ("s2", "s2/0.png", "val"),
    ]
    assert [row.position for row in rows] == [
        "row train[0], image_path[0]",
        "row train[0], image_path[1]",
        "row validate[0], image_path[0]",
    ]
    assert rows[2].nested == {"tags": "an object"}


def test_a_nested_column_is_not_called_missing(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(R2GEN))
    with pytest.raises(DataError, match=r"'image_path' has to be a text or a number, not a list"):
        values(path, "image_path")
    path.write_text(json.dumps(R2GEN["validate"]))
    with pytest.raises(DataError, match=r"row \[0\]: 'tags' has to be .*not an object"):
        values(path, "id", "tags")


def test_absent_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere\.csv: no such file"):
        values(tmp_path / "nowhere.csv")
    with pytest.raises(MissingFileError, match=r"is a folder"):
        values(tmp_path)


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\nbroken\n")
    assert next(read_table(path)).values == {"a": "1", "b": "2"}
