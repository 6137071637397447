"""A prepared folder as other frameworks read it, and text about phantoms."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from xraygpt.common.errors import DataError
from xraygpt.datasets.datasets.dialogue_dataset import read_dialogues
from xraygpt.evaluation.metrics.catalogue import metric_named
from xraygpt.preparation.cli import main
from xraygpt.preparation.messages import write_messages


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    folder = tmp_path / "prepared"
    (folder / "image" / "p1").mkdir(parents=True)
    rows = [
        {"image_id": "p1/a", "caption": "Große Ergüsse.", "split": "train"},
        {"image_id": "b", "caption": "Clear.", "split": "test"},
        {"image_id": "c", "caption": "", "split": "test"},
    ]
    for row in rows:
        Image.new("L", (8, 8)).save(folder / "image" / f"{row['image_id']}.jpg")
    (folder / "filter_cap.json").write_text(json.dumps({"annotations": rows}))
    return folder


def test_a_prepared_folder_becomes_messages_with_images(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["export", str(prepared), "--as", "messages", "--out", str(out), "--prompt", "Report."]
    assert main(command) == 0
    assert "train 1, test 1, without a report 1" in capsys.readouterr().out
    image = str((prepared / "image" / "p1" / "a.jpg").resolve())
    turns = [("user", "<image>Report."), ("assistant", "Große Ergüsse.")]
    messages = [{"role": role, "content": text} for role, text in turns]
    assert rows_of(out / "train.jsonl") == [{"messages": messages, "images": [image]}]
    assert [row["messages"][1]["content"] for row in rows_of(out / "test.jsonl")] == ["Clear."]
    info = json.loads((out / "dataset_info.json").read_text())
    assert {name: entry["file_name"] for name, entry in info.items()} == {
        "train": "train.jsonl",
        "test": "test.jsonl",
    }
    assert main(command) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_images_in_shards_are_no_files(prepared: Path, tmp_path: Path) -> None:
    (prepared / "image").rename(prepared / "shards")
    with pytest.raises(DataError, match="other frameworks read image files"):
        write_messages(prepared, tmp_path / "out", "Report.")
    assert not (tmp_path / "out").exists()


def test_synthetic_dialogues_are_of_disjoint_studies_and_have_exact_answers(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["phantom", "--as", "dialogues", "--studies", "60", "--out", str(out)]) == 0
    kinds = {
        kind: {split: read_dialogues(out / f"{kind}_{split}.jsonl") for split in ("train", "val", "test")}
        for kind in ("patients", "radiology")
    }
    assert {split: len(chats) for split, chats in kinds["patients"].items()} == {
        "train": 48,
        "val": 6,
        "test": 6,
    }
    asserted = denied = 0
    for chat in (chat for chats in kinds["radiology"].values() for chat in chats):
        report = chat.turns[0]["content"].rpartition(" Does it show ")[0]
        for question, answer in zip(chat.turns[::2], chat.turns[1::2], strict=True):
            name = question["content"].rpartition("Does it show ")[2].removesuffix("?")
            if answer["content"] == f"No {name}.":
                denied += 1
                continue
            asserted += 1
            # What is answered, the extractor of phantoms reads in the report too.
            told = answer["content"].removeprefix("Yes, ").replace(" and ", ". ").capitalize()
            assert metric_named("phantom_f1")([f"Findings: {told}"], [report]) > 0, (report, told)
    assert min(asserted, denied) > 60
