"""Every golden case beside this file agrees with the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.parity.__main__ import run
from tests.parity.golden import Case, cases

FOUND = cases(Path(__file__).parent / "cases")


def test_the_families_are_there() -> None:
    assert {case.name[0] for case in FOUND} >= set("abcefgi")


@pytest.mark.parametrize("case", FOUND, ids=lambda case: case.name)
def test_a_case(case: Case) -> None:
    torch.manual_seed(0)
    assert run(case) == "yes", case.comparison.problems
