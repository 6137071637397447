from __future__ import annotations

import json
from pathlib import Path

import pytest

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.evaluation.page.curves import MAX_POINTS, Curves, draw_chart, nice_ticks, read_curves, read_runs


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
    chart = draw_chart({"run": curves})
    assert chart is not None
    (line,) = chart.lines
    assert 1 < len(line.train) <= MAX_POINTS
    for x, y in [*line.train, *line.valid]:
        assert chart.left <= x <= chart.right
        assert 0 <= y <= chart.bottom
    ys = [y for _, y in line.train]
    assert ys == sorted(ys)  # y points downwards
    assert line.valid[-1] == (chart.right, pytest.approx(line.valid[0][1], abs=30))
    assert [label for _, label in chart.x_ticks] == ["0", "500", "1000"]
    assert [label for _, label in chart.y_ticks] == ["0.5", "1"]  # means of five steps each, from 1.37 down


@pytest.mark.parametrize(
    "curves", [Curves([(1, 2.0)], []), Curves([], [(5, 0.0)]), Curves([(1, 1), (2, 1)], [])]
)
def test_chart_of_hardly_anything(curves: Curves) -> None:
    chart = draw_chart({"run": curves})
    assert chart is not None
    (line,) = chart.lines
    assert len(line.train) == len(curves.train)
    assert len(line.valid) == len(curves.valid)


def test_no_points_no_chart() -> None:
    assert draw_chart({"run": Curves([], [])}) is None
    assert draw_chart({}) is None


def test_runs_are_laid_over_each_other_on_the_same_axes() -> None:
    short, long = Curves([(1, 4.0), (50, 3.0)], [(50, 2.0)]), Curves([(1, 4.0), (100, 1.0)], [])
    chart = draw_chart({"short": short, "long": long})
    assert chart is not None
    first, second = chart.lines
    assert (first.name, first.last_valid, second.name, second.last_valid) == ("short", 2.0, "long", None)
    assert first.train[0] == second.train[0]  # step 1, loss 4
    assert first.valid[0][0] == first.train[1][0] < second.train[1][0] == chart.right
    assert first.train[1][1] < first.valid[0][1] < second.train[1][1]


def test_runs_are_called_by_their_folders(tmp_path: Path) -> None:
    for folder in ("a/one", "b/one", "b/two"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "metrics.jsonl").write_text('{"event": "train", "step": 1, "loss": 2.0}\n')
    same = [tmp_path / "a/one", tmp_path / "b/one"]
    assert list(read_runs([tmp_path / "a/one", tmp_path / "b/two/metrics.jsonl"])) == ["one", "two"]
    assert list(read_runs(same)) == [str(path) for path in same]
    (tmp_path / "b/two/metrics.jsonl").write_text('{"event": "test", "step": 1}\n')
    with pytest.raises(DataError, match=r"two/metrics\.jsonl: holds no loss to draw"):
        read_runs([tmp_path / "b/two"])


def test_ticks_are_round() -> None:
    assert nice_ticks(0, 100) == [0, 50, 100]
    assert nice_ticks(0.42, 3.4) == [1, 2, 3]
    assert nice_ticks(0, 250) == [0, 100, 200]
    assert nice_ticks(2.0, 2.0) == [2.0]
