"""Conversations of text alone, for training a language model, in the forms that other libraries read.

A row of a JSON Lines or JSON file is one of

- ``{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}``, as
  TRL, ms-swift and LLaMA-Factory read it,
- ``{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}, ...]}`` (ShareGPT),
- ``{"instruction": "...", "input": "...", "output": "..."}`` (Alpaca), with earlier turns as pairs under
  ``history``.

The first turn, or the key ``system``, may be the system's. User and assistant take turns after it, and the
assistant has the last word. Blanks around what is said are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xraygpt.common.errors import DataError, summarise
from xraygpt.common.tables import read_objects
from xraygpt.datasets.batch import Sample, Turn
from xraygpt.datasets.datasets.base_dataset import ReportDataset
from xraygpt.processors.base_processor import BaseProcessor

ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
"""What a file calls who speaks -> the role."""
OTHER_MEDIA = ("images", "image", "videos", "audios")


class Dialogue(NamedTuple):
    """One conversation."""

    place: str
    """File and position, for messages: ``train.jsonl: line 3``."""
    turns: list[Turn]


def read_dialogues(path: Path) -> list[Dialogue]:
    """Read a file of conversations; each row may be of any of the forms.

    Raises:
        MissingFileError: no such file.
        DataError: it is no JSON, is empty, or has rows that are of none of the forms or no conversation;
            names the file and, for each row, its line and the key at fault.
    """
    dialogues: list[Dialogue] = []
    problems: list[str] = []
    for position, row in read_objects(path):
        try:
            dialogues.append(Dialogue(f"{path}: {position}", _turns(row)))
        except ValueError as error:
            problems.append(f"{position}: {error}")
    if problems:
        raise DataError(f"{path}: {summarise('rows cannot be used', problems)}")
    if not dialogues:
        raise DataError(f"{path}: there is no conversation in it")
    return dialogues


def _turns(row: Mapping[str, Any]) -> list[Turn]:
    """Return the turns of a row; raise ValueError, naming the key, if it is no conversation."""
    if media := [key for key in OTHER_MEDIA if row.get(key)]:
        raise ValueError(f'"{media[0]}": a language model alone reads text; leave such rows out')
    listed = next((key for key in ("messages", "conversations") if key in row), None)
    if listed is not None:
        turns = _listed_turns(row[listed], listed)
    elif {"instruction", "output"} <= row.keys():
        turns = _alpaca_turns(row)
    else:
        keys = ", ".join(row) or "none"
        forms = '"messages", "conversations", or "instruction" and "output"'
        raise ValueError(f"the keys {forms} are missing (there are: {keys})")
    if row.get("system"):
        turns.insert(0, {"role": "system", "content": _text(row["system"], "system")})
    speaking = [turn["role"] for turn in turns]
    if speaking.count("system") > 1:
        raise ValueError("the system has two turns; it may have one")
    if "assistant" not in speaking:
        raise ValueError("the assistant has no turn, so there is nothing to learn")
    expected = ["user", "assistant"] * len(speaking)
    asked = speaking[1:] if speaking[0] == "system" else speaking
    if asked != expected[: len(asked)] or asked[-1] != "assistant":
        raise ValueError(
            "user and assistant have to take turns, the user first and the assistant last, and the system "
            f"may only come before them, but the order is {', '.join(speaking)}"
        )
    return turns


def _listed_turns(said: Any, key: str) -> list[Turn]:
    if not isinstance(said, list):
        raise ValueError(f'"{key}" has to be a list of turns, not {type(said).__name__}')
    turns: list[Turn] = []
    for number, turn in enumerate(said):
        names = ("role", "content") if isinstance(turn, Mapping) and "role" in turn else ("from", "value")
        if not isinstance(turn, Mapping) or not set(names) <= turn.keys():
            raise ValueError(
                f'{key}[{number}] has to be an object with "role" and "content" or "from" and "value"'
            )
        role = ROLES.get(str(turn[names[0]]))
        if role is None:
            raise ValueError(f"{key}[{number}].{names[0]} is '{turn[names[0]]}', none of {', '.join(ROLES)}")
        turns.append({"role": role, "content": _text(turn[names[1]], f"{key}[{number}].{names[1]}")})
    return turns


def _alpaca_turns(row: Mapping[str, Any]) -> list[Turn]:
    parts = [_text(row[key], key) for key in ("instruction", "input") if row.get(key)] or [""]
    said = [*(row.get("history") or []), ["\n".join(parts), row["output"]]]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in said):
        raise ValueError('"history" has to be a list of pairs, each a question and its answer')
    return [
        {"role": role, "content": _text(text, what)}
        for pair in said
        for role, text, what in zip(("user", "assistant"), pair, ("instruction", "output"), strict=True)
    ]


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} has to be a text, not {'empty' if value in ('', None) else repr(value)}")
    return value.strip()


class DialogueDataset(ReportDataset):
    """One split of conversations; a sample has all turns, and as its report the last answer.

    Args:
        files: read in this order (`read_dialogues`).
        text_processor: applied to what is said in each turn.

    Raises:
        MissingFileError, DataError: as `read_dialogues`.
    """

    name = "dialogues"

    def __init__(self, files: Sequence[Path], text_processor: BaseProcessor) -> None:
        self.dialogues = [dialogue for file in files for dialogue in read_dialogues(file)]
        self.text_processor = text_processor
        digest = hashlib.sha256()
        for dialogue in self.dialogues:
            digest.update(json.dumps(dialogue.turns).encode())
        self.identity = f"dialogues of SHA-256 {digest.hexdigest()}"

    def __len__(self) -> int:
        return len(self.dialogues)

    def __getitem__(self, index: int) -> Sample:
        place, said = self.dialogues[index]
        turns = [{**turn, "content": self.text_processor(turn["content"])} for turn in said]
        return {"caption": turns[-1]["content"], "turns": turns, "image_id": place, "source": self.name}

    def caption(self, index: int) -> str:
        """Return all that is said in a conversation: its length is that of the training."""
        return " ".join(self.text_processor(turn["content"]) for turn in self.dialogues[index].turns)
