from __future__ import annotations

import pytest

from xraygpt.common.errors import DataError
from xraygpt.evaluation.subgroups import group_rows


def test_values_make_groups_in_their_order() -> None:
    assert group_rows("view", ["PA", "AP", "", "PA"]) == {"AP": [1], "PA": [0, 3], "not known": [2]}
    assert list(group_rows("score", ["10", "9", "2"])) == ["2", "9", "10"]
    assert group_rows("view", ["", ""]) == {"not known": [0, 1]}


def test_many_numbers_make_round_bands() -> None:
    ages = [str(age) for age in range(18, 96)]
    groups = group_rows("age", ages)
    assert list(groups) == ["0 to 19", "20 to 39", "40 to 59", "60 to 79", "80 to 99"]
    assert [ages[place] for place in groups["0 to 19"]] == ["18", "19"]
    assert sum(map(len, groups.values())) == len(ages)


@pytest.mark.parametrize("form", ["{:03}Y", "{} years", "{}"])
def test_ages_as_they_are_written(form: str) -> None:
    groups = group_rows("age", [form.format(age) for age in range(30, 62, 2)])
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
    groups = group_rows("dose", [str(value / 100) for value in range(-10, 60, 5)])
    assert next(iter(groups)) == "-0.1 to below 0"
    assert groups["0.3 to below 0.4"] == [8, 9]  # 0.30 and 0.35
    assert list(groups)[-1] == "0.5 to below 0.6"


def test_too_many_values_are_no_groups() -> None:
    with pytest.raises(DataError, match="subgroups by 'name': there are 60 different values"):
        group_rows("name", [f"name {i}" for i in range(60)])
