"""Conversations in the forms of other libraries, and what is wrong with a row."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from xraygpt.common.config import build_typed
from xraygpt.common.errors import ConfigError, DataError, MissingFileError
from xraygpt.datasets.batch import collate
from xraygpt.datasets.builders import DialogueBuilder
from xraygpt.datasets.datasets.dialogue_dataset import read_dialogues

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
TURNS = [(SYSTEM, "Be brief."), (USER, "Q1"), (ASSISTANT, "A1"), (USER, "Q2\nmore"), (ASSISTANT, "A2")]
WANTED = [{"role": role, "content": text} for role, text in TURNS]
SHARE_GPT = [
    {"from": {USER: "human", ASSISTANT: "gpt"}.get(role, role), "value": f"{text} "} for role, text in TURNS
]
FORMS: dict[str, dict[str, Any]] = {
    "messages": {"messages": WANTED},
    "ShareGPT": {"conversations": SHARE_GPT},
    "ShareGPT, system apart": {"system": "Be brief.", "conversations": SHARE_GPT[1:]},
    "Alpaca": {
        "instruction": "Q2",
        "input": "more",
        "output": "A2",
        "system": "Be brief.",
        "history": [["Q1", "A1"]],
    },
}


def lines(file: Path, *rows: Any) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_conversation(form: str, tmp_path: Path) -> None:
    file = lines(tmp_path / "chats.jsonl", FORMS[form])
    assert [(chat.place, chat.turns) for chat in read_dialogues(file)] == [(f"{file}: line 1", WANTED)]


def test_a_json_list_and_rows_of_different_forms(tmp_path: Path) -> None:
    (tmp_path / "chats.json").write_text(json.dumps([*FORMS.values()]))
    assert [chat.turns for chat in read_dialogues(tmp_path / "chats.json")] == [WANTED] * len(FORMS)


def test_an_alpaca_row_without_input_is_a_question_and_its_answer(tmp_path: Path) -> None:
    file = lines(tmp_path / "qa.jsonl", {"instruction": "Q", "input": "", "output": "A"})
    assert [turn["content"] for turn in read_dialogues(file)[0].turns] == ["Q", "A"]


def said(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"question": "Q", "answer": "A"},
            r'the keys "messages".* are missing \(there are: question, answer',
        ),
        (said((USER, "Q")), "the assistant has no turn"),
        ({"messages": []}, "the assistant has no turn"),
        (said((USER, "Q"), ("tool", "A")), r"messages\[1\]\.role is 'tool', none of user"),
        (said((USER, "Q"), (ASSISTANT, " ")), r"messages\[1\]\.content has to be a text, not ' '"),
        (said((USER, ""), (ASSISTANT, "A")), r"messages\[0\]\.content has to be a text, not empty"),
        (said((USER, [{"type": "text"}]), (ASSISTANT, "A")), r"messages\[0\]\.content has to be a text"),
        ({**said((SYSTEM, "S"), (USER, "Q"), (ASSISTANT, "A")), "system": "T"}, "the system has two turns"),
        (said((USER, "Q"), (USER, "Q"), (ASSISTANT, "A")), "have to take turns.*user, user, assistant"),
        (said((USER, "Q"), (ASSISTANT, "A"), (USER, "Q")), "the assistant last"),
        (said((USER, "Q"), (ASSISTANT, "A"), (SYSTEM, "S")), "only come before them"),
        ({"messages": "Q"}, '"messages" has to be a list of turns, not str'),
        ({"conversations": [{"from": "human"}]}, r"conversations\[0\] has to be an object"),
        ({"instruction": "Q", "output": None}, "output has to be a text, not empty"),
        ({"instruction": "", "output": "A"}, "instruction has to be a text, not empty"),
        ({"instruction": "Q", "output": "A", "history": ["Q"]}, '"history" has to be a list of pairs'),
        ({**said((USER, "Q"), (ASSISTANT, "A")), "images": ["a.jpg"]}, '"images": a language model alone'),
    ],
)
def test_a_row_that_is_no_conversation_is_named(row: Any, problem: str, tmp_path: Path) -> None:
    file = lines(tmp_path / "chats.jsonl", FORMS["messages"], row)
    where = re.escape(f"{file}: 1 rows cannot be used:\n  line 2: ")
    with pytest.raises(DataError, match=f"(?s){where}.*{problem}"):
        read_dialogues(file)


def test_an_empty_file_and_a_table_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(DataError, match="there is no conversation in it"):
        read_dialogues(tmp_path / "empty.json")
    (tmp_path / "chats.csv").write_text("instruction,output\nQ,A\n")
    with pytest.raises(DataError, match=r"not known as a table; one of \.jsonl"):
        read_dialogues(tmp_path / "chats.csv")


def build(files: dict[str, list[str]]) -> Any:
    section = {"build_info": {"files": files}}
    return DialogueBuilder(build_typed(DialogueBuilder.config_class, section, where="datasets.dialogues"))


def test_splits_are_built_and_put_into_batches(tmp_path: Path) -> None:
    one = lines(tmp_path / "one.jsonl", FORMS["messages"])
    two = lines(tmp_path / "two.jsonl", FORMS["Alpaca"], said((USER, "Q"), (ASSISTANT, "A")))
    datasets = build({"train": [str(one), str(two)], "valid": [str(one)]}).build_datasets()
    assert {split: len(data) for split, data in datasets.items()} == {"train": 3, "val": 1}
    data = datasets["train"]
    batch = collate([data[0], data[2]])
    assert batch["caption"] == ["A2", "A"]
    assert [len(turns) for turns in batch["turns"]] == [5, 2]
    assert batch["image_id"] == [f"{one}: line 1", f"{two}: line 2"]
    assert data.caption(0) == "Be brief. Q1 A1 Q2\nmore A2"
    assert data.identity != datasets["val"].identity


def test_settings_of_no_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"datasets\.dialogues\.build_info\.files is not set"):
        build({}).build_datasets()
    with pytest.raises(MissingFileError, match=r"build_info\.files"):
        build({"train": [str(tmp_path / "absent.jsonl")]}).build_datasets()
