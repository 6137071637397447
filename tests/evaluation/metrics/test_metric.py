from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation.runs import ABSENT, LENGTH, SAME
from xraygpt.evaluation.metrics.metric import Array, Metric, make_tables

REFERENCES = ["abc", "d", "ef"]
RUNS = (["abc", "x", "ef"], ["", "d", "long text"])


def test_each_run_has_its_table() -> None:
    tables = make_tables([SAME, LENGTH], REFERENCES, RUNS)
    assert [table.scores() for table in tables] == [
        {metric.name: metric(REFERENCES, texts) for metric in (SAME, LENGTH)} for texts in RUNS
    ]
    assert tables[1].each(LENGTH).tolist() == [0, 1, 9]


def test_metrics_with_the_same_statistics_share_them() -> None:
    calls: list[int] = []

    def counted(references: Sequence[str], hypotheses: Sequence[str]) -> Array:
        calls.append(len(hypotheses))
        return SAME.statistics(references, hypotheses)

    first = replace(SAME, name="first", statistics=counted)
    second = replace(first, name="second", score=lambda sums: 10 * SAME.score(sums))
    (table,) = make_tables([first, LENGTH, second], REFERENCES, RUNS[:1])
    assert calls == [3]
    assert table.values.shape == (3, 4)
    assert table.scores()["second"] == 10 * table.scores()["first"] == 10 * SAME(REFERENCES, RUNS[0])


@pytest.mark.parametrize("metric", [LENGTH, ABSENT])
def test_another_program_is_asked_once_for_all_runs(metric: Metric) -> None:
    expected = make_tables([metric, SAME], REFERENCES, RUNS)
    calls: list[int] = []

    def counted(references: Sequence[str], hypotheses: Sequence[str]) -> Array:
        calls.append(len(hypotheses))
        return metric.statistics(references, hypotheses)

    other_program = replace(metric, statistics=counted, outside_python=True)
    outside = make_tables([other_program, SAME], REFERENCES, RUNS)
    assert calls == [6]
    for table, other in zip(outside, expected, strict=True):
        assert table.scores() == other.scores()
        assert table.not_computed == other.not_computed


def test_nothing_can_be_computed() -> None:
    (table,) = make_tables([ABSENT], REFERENCES, RUNS[:1])
    assert (table.metrics, table.scores()) == ((), {})
    assert table.values.shape == (3, 0)
    assert np.isfinite(table.values).all()
