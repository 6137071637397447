"""The thresholds of the quickstart's scores."""

from __future__ import annotations

from typing import Any

from tests.check_scores import failures


def scores(
    reports: int, f1: float, shuffled: float, untrained: float | None, seconds: float
) -> dict[str, Any]:
    return {
        "reports": reports,
        "scores": {"phantom_f1": {"value": f1}},
        "controls": {"shuffled": {"phantom_f1": shuffled}},
        "untrained": {} if untrained is None else {"phantom_f1": untrained},
        "seconds": seconds,
    }


def test_accepts_scores_at_the_thresholds() -> None:
    assert failures(scores(300, 0.95, 0.25, 0.0, 360)) == []


def test_names_every_figure_that_fails() -> None:
    named = [line.split()[0] for line in failures(scores(299, float("nan"), 0.2501, None, 361))]
    assert named == [
        "reports",
        "scores.phantom_f1.value",
        "controls.shuffled.phantom_f1",
        "untrained.phantom_f1",
        "seconds",
    ]


def test_a_file_of_another_kind_has_none_of_them() -> None:
    assert len(failures({"scores": 3})) == 5
