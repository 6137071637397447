"""``docs/differences.md``: its rows name tests that exist, and the harness names rows that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8").splitlines()
ROWS = {line.split("|")[1].strip(): line for line in LINES if re.match(r"\|.*`tests/", line)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[:40])
def test_a_row_names_tests_that_exist(row: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", ROWS[row])
    assert len(named) == ROWS[row].count("`tests/")
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {test}"


def test_every_row_of_a_table_names_a_test() -> None:
    ended = LINES.index("## Rounding")
    tables = [
        line for line in LINES[:ended] if line.startswith("|") and not re.match(r"\|(---|\s*what)", line)
    ]
    assert len(tables) == len(ROWS) > 40


def test_what_differs_on_purpose_has_a_row() -> None:
    files = [file for file in Path(__file__).parent.glob("[!_t]*.py") if file.name != "comparison.py"]
    sources = [file.read_text(encoding="utf-8") for file in files]
    calls = [row for s in sources for row in re.findall(r'\.(?:differs|mended)\([^)]*?("[^"]+"|\w+)\)\n', s)]
    assert len(calls) == sum(len(re.findall(r"\.(?:differs|mended)\(", source)) for source in sources) > 8
    for row in calls:
        assert row.strip('"') in ROWS, row
