from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.runs import prediction
from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.evaluation.predictions import (
    PredictionColumns,
    group_by_column,
    read_predictions,
)

GOOD = {"image_id": "a", "reference": "No effusion.", "generated": "Clear."}


def json_lines(folder: Path, *rows: Mapping[str, Any]) -> Path:
    file = folder / "predictions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def refused(file: Path, columns: PredictionColumns | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_predictions(file, columns)
    return str(caught.value)


def test_every_format_gives_the_same(tmp_path: Path) -> None:
    rows = [
        {"image_id": "a", "study_id": "s", "reference": 'Große "Effusion", left.', "generated": "", "age": 7},
        {"image_id": "b", "study_id": "s", "reference": "Clear.", "generated": "Clear.", "age": 8},
    ]
    lines = json_lines(tmp_path, *rows)
    (tmp_path / "p.json").write_text(json.dumps(rows))
    (tmp_path / "p.csv").write_text(
        'age,generated,image_id,reference,study_id\n7,,a,"Große ""Effusion"", left.",s\n'
        "8,Clear.,b,Clear.,s\n",
        encoding="utf-8-sig",
    )
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress((tmp_path / "p.csv").read_bytes()))
    expected = read_predictions(lines)
    for name in ("p.json", "p.csv", "p.csv.gz"):
        assert read_predictions(tmp_path / name) == expected
    assert read_predictions(tmp_path) == expected  # the folder of a run
    first = expected[0]
    assert (first.image_id, first.study_id, first.generated) == ("a", "s", "")
    assert first.reference == 'Große "Effusion", left.'
    assert dict(first.columns) == {"age": "7"}
    assert [row.columns["age"] for row in expected] == ["7", "8"]


def test_a_folder_with_predictions_of_several_splits(tmp_path: Path) -> None:
    for split in ("test", "val"):
        json_lines(tmp_path, GOOD).rename(tmp_path / f"predictions_{split}.jsonl")
    message = refused(tmp_path)
    assert message.endswith("(predictions_test.jsonl, predictions_val.jsonl); name one")
    (tmp_path / "predictions_val.jsonl").unlink()
    assert len(read_predictions(tmp_path)) == 1


def test_each_image_is_a_study_where_none_is_named(tmp_path: Path) -> None:
    rows = read_predictions(json_lines(tmp_path, GOOD, GOOD | {"image_id": "b"}))
    assert [row.study_id for row in rows] == ["a", "b"]


def test_other_names_of_columns(tmp_path: Path) -> None:
    file = tmp_path / "p.tsv"
    file.write_text("dicom\ttruth\tanswer\texam\tview\n1\tA.\tB.\t9\tPA\n")
    columns = PredictionColumns(image_id="dicom", reference="truth", generated="answer", study_id="exam")
    (row,) = read_predictions(file, columns)
    assert (row.image_id, row.reference, row.generated, row.study_id) == ("1", "A.", "B.", "9")
    assert dict(row.columns) == {"view": "PA"}


def test_patients_by_their_usual_columns_or_a_named_one(tmp_path: Path) -> None:
    def patients(*rows: Mapping[str, Any], column: str | None = None) -> list[str]:
        file = json_lines(tmp_path, *(GOOD | {"image_id": str(i)} | row for i, row in enumerate(rows)))
        found = read_predictions(file, PredictionColumns(patient_id=column))
        assert all(not {"patient_id", "subject_id"} & row.columns.keys() for row in found)
        return [row.patient_id for row in found]

    assert patients({"subject_id": 10}, {"subject_id": " 11"}) == ["10", "11"]
    assert patients({"patient_id": "a"}, {"patient_id": None}) == ["a", ""]
    assert patients({"who": "a"}, {"who": "b"}, column="who") == ["a", "b"]
    with pytest.raises(DataError, match=r"line 2: no patient \('who' is empty\)"):
        patients({"who": "a"}, {"who": ""}, column="who")
    with pytest.raises(DataError, match="columns are missing: 'who'"):
        patients({"patient_id": "a"}, column="who")


def test_all_problems_are_named_with_their_lines(tmp_path: Path) -> None:
    file = json_lines(
        tmp_path,
        GOOD,
        GOOD | {"image_id": "b", "reference": " "},
        GOOD,
        GOOD | {"image_id": " "},
        GOOD | {"image_id": "e", "reference": None},
        GOOD | {"image_id": "f", "reference": float("nan")},
        GOOD | {"image_id": "g", "study_id": ""},
    )
    file.write_text(file.read_text() + "{not JSON\n")
    message = refused(file)
    assert message.startswith(f"{file}: 7 problems\n")
    for words in (
        "line 2: no reference ('reference' is empty)",
        "line 3: the image 'a' stands in line 1 already",
        "line 4: no image id",
        "line 5: no reference",
        "line 6: no reference ('reference' is NaN)",
        "line 7: no study",
        "line 8: not valid JSON",
    ):
        assert f"\n  {words}" in message


def test_references_that_are_missing(tmp_path: Path) -> None:
    nothing = [GOOD | {"image_id": name, "reference": text} for name, text in (("b", "NaN"), ("c", " "))]
    file = json_lines(tmp_path, GOOD, *nothing)
    assert refused(file).endswith("2 of 3 rows have no reference; --skip-without-reference leaves them out")
    rows = read_predictions(file, need_references=False)
    assert [row.reference for row in rows] == ["No effusion.", "", ""]
    for need in (True, False):
        with pytest.raises(DataError, match="there are no references"):
            read_predictions(json_lines(tmp_path, *nothing), need_references=need)


def test_a_long_list_of_problems_is_cut(tmp_path: Path) -> None:
    message = refused(json_lines(tmp_path, *[GOOD] * 100))
    assert "99 problems" in message
    assert "line 21" in message
    assert "line 22" not in message
    assert message.endswith("and 79 more")


def test_one_problem_is_one_line(tmp_path: Path) -> None:
    file = json_lines(tmp_path, GOOD, GOOD)
    assert refused(file) == f"{file}: line 2: the image 'a' stands in line 1 already"


def test_unknown_columns_give_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("image_id,refrence,generated\na,b,c\n")
    assert "'reference'; did you mean 'refrence'?" in refused(file)
    file.write_text("image_id,reference,generated,study\na,b,c,d\n")
    assert "'studie'; did you mean 'study'?" in refused(file, PredictionColumns(study_id="studie"))
    assert "named for two things" in refused(file, PredictionColumns(reference="generated"))
    with pytest.raises(DataError, match="'vieww'; did you mean 'view'"):
        group_by_column(read_predictions(json_lines(tmp_path, GOOD | {"view": "PA"})), "vieww")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "p.csv"
    file.write_text("image_id,reference,generated\na,Große,b\n", encoding=encoding)
    assert f"line {2 if encoding == 'latin-1' else 1} is not UTF-8" in refused(file)


def test_nothing_to_read(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("image_id,reference,generated\n")
    assert "there are no predictions in it" in refused(file)
    file.write_text("")
    assert refused(file).endswith("the file is empty.")
    blank = tmp_path / "p.jsonl"
    blank.write_text("\n \n")
    assert "there are no predictions in it" in refused(blank)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match="a folder without predictions"):
        read_predictions(tmp_path / "empty")
    with pytest.raises(MissingFileError, match="no such file"):
        read_predictions(tmp_path / "absent.csv")


def groups_of(column: str, values: Sequence[str]) -> dict[str, list[int]]:
    rows = [prediction(i, "a", "b", columns={column: value}) for i, value in enumerate(values)]
    return group_by_column(rows, column)


def test_values_make_groups_in_their_order() -> None:
    assert groups_of("view", ["PA", "AP", "", "PA"]) == {"AP": [1], "PA": [0, 3], "not known": [2]}
    assert list(groups_of("score", ["10", "9", "2"])) == ["2", "9", "10"]
    assert groups_of("view", ["", ""]) == {"not known": [0, 1]}


def test_many_numbers_make_round_bands() -> None:
    ages = [str(age) for age in range(18, 96)]
    groups = groups_of("age", ages)
    assert list(groups) == ["0 to 19", "20 to 39", "40 to 59", "60 to 79", "80 to 99"]
    assert [ages[place] for place in groups["0 to 19"]] == ["18", "19"]
    assert sum(map(len, groups.values())) == len(ages)


@pytest.mark.parametrize("form", ["{:03}Y", "{} years", "{}"])
def test_ages_as_they_are_written(form: str) -> None:
    groups = groups_of("age", [form.format(age) for age in range(30, 62, 2)])
    assert list(groups) == [
        "30 to 34",
        "35 to 39",
        "40 to 44",
        "45 to 49",
        "50 to 54",
        "55 to 59",
        "60 to 64",
    ]


def test_bands_of_fractions_and_of_negative_numbers() -> None:
    groups = groups_of("dose", [str(value / 100) for value in range(-10, 60, 5)])
    assert next(iter(groups)) == "-0.1 to below 0"
    assert groups["0.3 to below 0.4"] == [8, 9]  # 0.30 and 0.35
    assert list(groups)[-1] == "0.5 to below 0.6"


def test_too_many_values_are_no_groups() -> None:
    with pytest.raises(DataError, match="subgroups by 'name': there are 60 different values"):
        groups_of("name", [f"name {i}" for i in range(60)])


def swift(response: str, images: list[Any], **values: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": "<image>Report."}, {"role": "assistant", "content": response}]
    return {
        "response": response,
        "labels": "No effusion.",
        "logprobs": None,
        "messages": turns,
        "images": images,
        **values,
    }


def test_predictions_of_ms_swift_are_called_by_their_images(tmp_path: Path) -> None:
    paths = ["/data/image/p1/a.jpg", "/data/image/b.1.jpg"]
    rows = [swift("Clear.", [{"bytes": None, "path": paths[0]}]), swift("", [paths[1]])]
    found = read_predictions(json_lines(tmp_path, *rows))
    assert [(row.image_id, row.study_id, row.generated, row.reference) for row in found] == [
        ("p1/a", "p1/a", "Clear.", "No effusion."),
        ("b.1", "b.1", "", "No effusion."),
    ]


def test_predictions_of_llama_factory_are_called_by_their_lines(tmp_path: Path) -> None:
    rows = [{"prompt": "user Report.", "predict": text, "label": "Clear."} for text in ("A.", "B.")]
    found = read_predictions(json_lines(tmp_path, *rows))
    assert [(row.image_id, row.generated, row.reference) for row in found] == [
        ("line 1", "A.", "Clear."),
        ("line 2", "B.", "Clear."),
    ]


def test_other_frameworks_rows_are_checked_like_any(tmp_path: Path) -> None:
    twice = json_lines(tmp_path, swift("A", ["a.jpg"]), swift("B", ["a.jpg"]))
    assert "line 2: the image 'a' stands in line 1 already" in refused(twice)
    unlike = json_lines(tmp_path, swift("A", ["a.jpg"]), {"response": "B"})
    assert "line 2: columns are missing: 'labels'" in refused(unlike)
    without = json_lines(tmp_path, swift("A", ["a.jpg"], labels=None), swift("B", ["b.jpg"]))
    assert "line 1: no reference" in refused(without)
    # Named columns are those of the table, whatever its other keys are.
    named = PredictionColumns(image_id="messages_id", generated="response", reference="labels")
    file = json_lines(tmp_path, {**swift("A", ["a.jpg"]), "messages_id": "m"})
    assert [row.image_id for row in read_predictions(file, named)] == ["m"]


def test_a_study_has_one_patient(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    head = "image_id,study_id,patient_id,generated,reference\n"
    path.write_text(f"{head}a,s,p,x,x\nb,s,q,x,x\nc,t,,x,x\nd,t,p,x,x\n")
    with pytest.raises(DataError, match=r"the study 's' has rows of several patients \(p, q\)$"):
        read_predictions(path)
