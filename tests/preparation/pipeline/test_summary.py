from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.preparation.prepared import change, picture, refused, study, write_record
from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.preparation.pipeline.summary import Summary


def summarise(tmp_path: Path, rows: list[dict[str, Any]], **options: Any) -> Summary:
    return Summary(write_record(tmp_path / "studies.jsonl", rows), **options)


def counts_of(summary: Summary) -> dict[str, int]:
    return {check.what: check.count for check in summary.checks()}


def details_of(summary: Summary, what: str) -> tuple[str, ...]:
    return next(check.details for check in summary.checks() if check.what == what)


def test_studies_are_counted_by_outcome_and_rule(tmp_path: Path) -> None:
    rows = [
        study("a"),
        study("b", split="test"),
        refused("c", "min_findings_words"),
        refused("d", "min_findings_words"),
        refused("e", "label_preservation", outcome="rejected"),
        {"unusable": "reports.tgz: 7.xml", "reason": "not XML"},
    ]
    content = json.loads(summarise(tmp_path, rows).to_json())
    studies = content["studies"]
    assert (studies["read"], studies["kept"], studies["dropped"], studies["rejected"]) == (5, 2, 2, 1)
    assert studies["refused_by"]["dropped"] == {"min_findings_words": {"count": 2, "first": ["c", "d"]}}
    assert studies["refused_by"]["rejected"]["label_preservation"]["first"] == ["e"]
    assert content["unusable"] == {"not XML": {"count": 1, "first": ["reports.tgz: 7.xml"]}}
    assert content["annotations"] == {"train": 1, "test": 1}


def test_pictures_are_counted_by_outcome_and_reason(tmp_path: Path) -> None:
    lateral = {"image_id": "a_2", "outcome": "left out", "reason": "view is LATERAL"}
    broken = {"image_id": "a_3", "view": "PA", "outcome": "refused", "reason": "modality is CT"}
    inverted = picture("a_4", notes=["looks inverted"], view="", bytes=3000, original_height=100)
    never_converted = {"image_id": "b_1", "view": "PA"}
    rows = [
        study("a", picture("a_1"), lateral, broken, inverted),
        refused("b", "min_findings_words", pictures=[never_converted]),
    ]
    pictures = json.loads(summarise(tmp_path, rows).to_json())["pictures"]
    assert pictures["written"] == 2
    assert pictures["left_out"] == {"view is LATERAL": {"count": 1, "first": ["a_2"]}}
    assert pictures["refused"] == {"modality is CT": {"count": 1, "first": ["a_3"]}}
    assert pictures["notes"] == {"looks inverted": {"count": 1, "first": ["a_4"]}}
    assert pictures["views"] == {"PA": 1, "not known": 1}
    assert (pictures["bytes"], pictures["largest_bytes"]) == (4000, 3000)
    assert pictures["longest_side"] == [["257 to 512", 2]]
    assert pictures["longest_side_before"] == [["2049 to 2560", 1], ["2561 to 3072", 1]]


def test_images_of_a_dropped_study_are_not_training_data(tmp_path: Path) -> None:
    rows = [
        study("a"),
        refused("b", "short", pictures=[picture("b_1", pixels="pixels of a_1")], split="test"),
    ]
    summary = summarise(tmp_path, rows)
    assert summary.annotations() == {"train": 1}
    assert not summary.leakage["pixels_repeated"].values


def test_an_annotation_is_a_report_where_there_are_no_images(tmp_path: Path) -> None:
    rows = [study("a", pictures=[]), study("b", pictures=[])]
    summary = summarise(tmp_path, rows, text_only=True)
    assert summary.annotations() == {"train": 2}
    assert not any("image" in check.what for check in summary.checks())
    assert "images" not in summary.text()


def test_uncleaned_reports_are_counted_and_told(tmp_path: Path) -> None:
    summary = summarise(tmp_path, [study("a"), study("b", detail="not in English"), study("c")])
    assert "reports kept without cleaning: 1\n  1 × not in English: b" in summary.text()
    assert json.loads(summary.to_json())["studies"]["uncleaned"]["not in English"]["count"] == 1


def test_words_are_those_of_kept_captions(tmp_path: Path) -> None:
    rows = [study(str(n), caption="word " * n) for n in range(1, 101)]
    rows.append(refused("x", "some_rule", caption="word " * 5000))
    words = summarise(tmp_path, rows).reports.word_figures()
    assert (words["mean"], words["least"], words["most"]) == (50.5, 1, 100)
    assert (words["percentile_5"], words["percentile_50"], words["percentile_95"]) == (5, 50, 95)


def test_changes_are_counted_by_report_and_by_sentence(tmp_path: Path) -> None:
    prior = change("priors", "Unchanged effusion.", "Effusion.")
    mark = change("marks", "XXXX wires.", "Wires.")
    rows = [study("a", changes=[prior, prior, mark]), refused("b", "short", changes=[prior])]
    reports = summarise(tmp_path, rows).reports
    assert reports.changed_reports == {"priors": 2, "marks": 1}
    assert reports.changed_sentences == {"priors": 3, "marks": 1}
    assert [example.changes for example in reports.samples["marks"].items()] == [(("XXXX wires.", "Wires."),)]


def test_a_refused_report_is_shown_with_its_reason(tmp_path: Path) -> None:
    cut = change("priors", "The new effusion is large.", "")
    rows = [refused("a", "short"), refused("b", "labels", outcome="rejected", changes=[cut])]
    reports = summarise(tmp_path, rows).reports
    (short,), (labels,) = reports.samples["short"].items(), reports.samples["labels"].items()
    assert (short.study_id, short.detail, short.changes) == ("a", "short, said at length", ())
    assert labels.changes == (("The new effusion is large.", ""),)


def test_examples_and_shown_images_do_not_depend_on_the_order(tmp_path: Path) -> None:
    rows = [study(f"s{n}", changes=[change("marks", "XXXX a.", "A.")]) for n in range(200)]
    first = summarise(tmp_path, rows)
    random.Random(0).shuffle(rows)
    second = summarise(tmp_path, rows)
    assert len(first.pictures.shown.items()) == 24
    assert first.pictures.shown.items() == second.pictures.shown.items()
    assert len(first.reports.samples["marks"].items()) == 3
    assert first.reports.samples["marks"].items() == second.reports.samples["marks"].items()


def test_a_study_listed_twice_is_one_example(tmp_path: Path) -> None:
    row = study("a", changes=[change("marks", "XXXX a.", "A.")])
    summary = summarise(tmp_path, [row, row])
    assert [example.study_id for example in summary.reports.samples["marks"].items()] == ["a"]
    assert [shown.image_id for shown in summary.pictures.shown.items()] == ["a_1"]


def test_labels_are_counted_before_and_after(tmp_path: Path) -> None:
    rows = [
        study("a", labels_before={"Edema": 1, "Fracture": -1}, labels_after={"Edema": 1}),
        refused("b", "short", labels_before={"Edema": 0}, labels_after={}),
        refused("c", "labels", outcome="rejected", labels_before={"Edema": 1}, labels_after={"Edema": -1}),
    ]
    labels = summarise(tmp_path, rows).reports.labels
    assert labels["Edema"]["before"] == {"positive": 2, "negative": 1}
    assert labels["Edema"]["kept_before"] == labels["Edema"]["kept_after"] == {"positive": 1}
    assert labels["Fracture"]["kept_before"] == {"uncertain": 1}
    assert not labels["Fracture"]["kept_after"]


def test_leakage_is_found_and_named(tmp_path: Path) -> None:
    rows = [
        study("a", patient_id="p1"),
        study("b", patient_id="p1"),
        study("c", patient_id="p1", split="test"),
        study("d", picture("d_1", pixels="same"), picture("d_2", pixels="same")),
        study("e", picture("e_1", pixels="same"), split="val"),
        study("a", picture("a_again"), patient_id=""),
        refused("f", "short", patient_id="p9", split="test"),
        study("g", patient_id="p9"),
    ]
    summary = summarise(tmp_path, rows)
    counts = counts_of(summary)
    assert counts["patients in more than one split"] == 1
    assert counts["equal images in more than one split"] == 1
    assert counts["equal images in more than one study"] == 1
    assert counts["studies listed more than once"] == 1
    assert counts["studies in more than one split"] == 0
    patients = details_of(summary, "patients in more than one split")
    assert patients == ("patient p1: study a (train), study c (test)",)
    (images,) = details_of(summary, "equal images in more than one split")
    assert images == "d_1 (study d, train) = d_2 (study d, train) = e_1 (study e, val)"
    assert summary.leakage["pixels_repeated"].members == 3


def test_patients_that_are_not_named_are_said_to_be_unknown(tmp_path: Path) -> None:
    summary = summarise(tmp_path, [study("a", patient_id="")])
    text = summary.text()
    assert "not known: patients in more than one split (the raw data name no patients)" in text
    assert "none found: studies in more than one split" in text


def test_equal_images_of_one_study_are_no_leakage(tmp_path: Path) -> None:
    summary = summarise(tmp_path, [study("d", picture("d_1", pixels="x"), picture("d_2", pixels="x"))])
    assert summary.leakage["pixels_repeated"].values == 1
    assert summary.leakage["pixels_in_studies"].values == 0


def test_equal_captions_are_counted_and_no_problem(tmp_path: Path) -> None:
    summary = summarise(tmp_path, [study("a"), study("b", split="test"), study("c", caption="Another.")])
    assert summary.leakage["captions_repeated"].members == 2
    assert summary.leakage["captions_in_splits"].values == 1
    assert not any(counts_of(summary).values())


def test_text_puts_problems_first_and_says_what_is_not_there(tmp_path: Path) -> None:
    rows = [study("a", split="val", patient_id="p"), study("a", patient_id="q"), refused("b", "short")]
    lines = summarise(tmp_path, rows).text().splitlines()
    assert lines[:2] == ["studies in more than one split: 1", "  study a: val, train"]
    assert any(line.startswith("none found: patients in more than one split, ") for line in lines)
    assert "3 studies: 2 kept, 1 dropped, 0 rejected" in lines
    assert "  1 dropped by short" in lines
    assert lines[-1] == "2 annotations: train 1, val 1"


def test_counts_of_endlessly_many_reasons_are_bounded(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"unusable": f"{n}.xml", "reason": f"broken at {n}"} for n in range(500)]
    unusable = summarise(tmp_path, rows).unusable
    assert len(unusable) == 101
    assert unusable.total() == 500


def test_the_same_record_gives_the_same_json_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    rows = [study("b"), study("a", split="test", patient_id="patient of b")]
    assert summarise(tmp_path, rows).to_json() == summarise(tmp_path / "other", rows).to_json()


def test_an_empty_record_gives_a_summary(tmp_path: Path) -> None:
    summary = summarise(tmp_path, [])
    assert "0 studies" in summary.text()
    assert json.loads(summary.to_json())["studies"]["words_of_kept"] == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"study_id": "a", "outcome"', "not valid JSON"),
        ("[]", "found list"),
        ('{"study_id": "a", "outcome": "lost"}', "kept, dropped, rejected"),
        ('{"study_id": "a", "outcome": "kept", "split": "train"}', '"caption"'),
        ('{"study_id": "a", "outcome": "dropped", "pictures": [1]}', '"pictures"'),
        ('{"unusable": "a"}', '"reason"'),
        (json.dumps(study("a", {"image_id": "x", "outcome": "written"})), "lacks bytes"),
        ("\udcff", "not readable as JSON"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "studies.jsonl"
    text = json.dumps(study("a")) + "\n" + line + "\n"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(DataError, match="studies.jsonl: line 2: ") as caught:
        Summary(path)
    assert said in str(caught.value)


def test_an_absent_record_is_an_error_for_people(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="missing file"):
        Summary(tmp_path / "studies.jsonl")
