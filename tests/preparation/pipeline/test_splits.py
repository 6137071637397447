"""Drawn splits: by patient, stable, in the shares asked for."""

from __future__ import annotations

from collections import Counter

import pytest

from xraygpt.common.errors import ConfigError
from xraygpt.common.typed import build_typed
from xraygpt.preparation.pipeline.run import SplitConfig, split_of
from xraygpt.preparation.study import Study


def study(number: int, patient: str = "", split: str | None = None) -> Study:
    return Study(f"s{number}", {}, patient_id=patient, split=split)


def test_a_published_split_stays() -> None:
    assert split_of(study(1, split="val"), SplitConfig(val=0.0, test=0.99)) == "val"


def test_shares_are_met_on_average() -> None:
    counts = Counter(split_of(study(number), SplitConfig(val=0.1, test=0.2)) for number in range(20_000))
    assert counts["val"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert counts["test"] / 20_000 == pytest.approx(0.2, abs=0.01)


def test_a_patient_is_in_one_split() -> None:
    for patient in range(50):
        splits = {split_of(study(number, f"p{patient}"), SplitConfig()) for number in range(20)}
        assert len(splits) == 1


def test_another_seed_gives_other_splits() -> None:
    first, second = ([split_of(study(n), SplitConfig(seed=seed)) for n in range(200)] for seed in (0, 1))
    assert first != second
    assert first == [split_of(study(n), SplitConfig(seed=0)) for n in range(200)]


@pytest.mark.parametrize("values", [{"val": -0.1}, {"test": 1.0}, {"val": 0.5, "test": 0.5}])
def test_impossible_shares_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="val|test"):
        build_typed(SplitConfig, values, "splits")
