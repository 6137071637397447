from __future__ import annotations

import json
from pathlib import Path

import pytest

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.evaluation.page.curves import MAX_POINTS, Curves, draw_chart, nice_ticks, read_curves


def test_reads_training_and_validation_losses(tmp_path: Path) -> None:
    lines = [
        {"event": "train", "step": 1, "loss": 2.0, "lr": 0.1},
        {"event": "train", "step": 2, "loss": None},  # how a loss that is not finite is written
        {"event": "valid", "step": 2, "loss": 1.5, "findings": {}},
        {"event": "test", "step": 2, "loss": 9.0},
        {"event": "valid", "step": 2, "f1": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_curves(tmp_path / "metrics.jsonl") == Curves([(1, 2.0)], [(2, 1.5)])


def test_absent_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(MissingFileError, match=r"metrics\.jsonl"):
        read_curves(path)
    path.write_text('{"event": "train", "step": 1, "loss": 1}\n{"event": "tr')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2"):
        read_curves(path)


def test_chart_keeps_to_its_box_and_falls_with_the_loss() -> None:
    curves = Curves([(i + 1, 3 / (i + 1)) for i in range(1000)], [(500, 0.5), (1000, 0.4)])
    chart = draw_chart(curves)
    assert chart is not None
    assert 1 < len(chart.train) <= MAX_POINTS
    for x, y in [*chart.train, *chart.valid]:
        assert chart.left <= x <= chart.right
        assert 0 <= y <= chart.bottom
    ys = [y for _, y in chart.train]
    assert ys == sorted(ys)  # y points downwards
    assert chart.valid[-1] == (chart.right, pytest.approx(chart.valid[0][1], abs=30))
    assert [label for _, label in chart.x_ticks] == ["0", "500", "1000"]
    assert [label for _, label in chart.y_ticks] == ["0.5", "1"]  # means of five steps each, from 1.37 down


@pytest.mark.parametrize(
    "curves", [Curves([(1, 2.0)], []), Curves([], [(5, 0.0)]), Curves([(1, 1), (2, 1)], [])]
)
def test_chart_of_hardly_anything(curves: Curves) -> None:
    chart = draw_chart(curves)
    assert chart is not None
    assert len(chart.train) == len(curves.train)
    assert len(chart.valid) == len(curves.valid)


def test_no_points_no_chart() -> None:
    assert draw_chart(Curves([], [])) is None


def test_ticks_are_round() -> None:
    assert nice_ticks(0, 100) == [0, 50, 100]
    assert nice_ticks(0.42, 3.4) == [1, 2, 3]
    assert nice_ticks(0, 250) == [0, 100, 200]
    assert nice_ticks(2.0, 2.0) == [2.0]
