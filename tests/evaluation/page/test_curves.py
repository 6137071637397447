from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib import rc_context

from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.evaluation.page.curves import (
    COLOURS,
    INK,
    MAX_POINTS,
    Chart,
    Curves,
    draw_curves,
    read_curves,
    read_runs,
)


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


def drawn(**runs: Curves) -> Chart:
    chart = draw_curves(runs)
    assert chart is not None
    return chart


def lines_in(chart: Chart, colour: str) -> list[list[tuple[float, float]]]:
    """Return the points of each line of a colour, y downwards."""
    paths = [
        path for path in ElementTree.fromstring(xml(chart)).iter("path") if colour in path.get("style", "")
    ]
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.get("d", ""))]
        for path in paths
        if path.get("style", "").startswith("fill: none")
    ]


def xml(chart: Chart) -> str:
    """Return the drawing as a file has it; in a page, HTML knows the name space."""
    return chart.svg.replace("xlink:href", "href")


def test_chart_keeps_to_its_box_and_falls_with_the_loss() -> None:
    chart = drawn(run=Curves([(i + 1, 3 / (i + 1)) for i in range(1000)], [(500, 0.5), (1000, 0.4)]))
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', chart.svg)[0])
    train, valid = lines_in(chart, COLOURS[0])
    assert 1 < len(train) <= MAX_POINTS
    assert all(0 < x < width and 0 < y < height for x, y in [*train, *valid])
    ys = [y for _, y in train]
    assert ys == sorted(ys)  # y points downwards
    (half, _), (end, _) = valid
    assert 2 * (half - train[0][0]) == pytest.approx(end - train[0][0], abs=2)
    assert end == pytest.approx(train[-1][0], abs=2)
    assert [(line.name, line.colour, line.last_valid) for line in chart.lines] == [("run", COLOURS[0], 0.4)]


def test_the_same_losses_give_the_same_drawing_in_the_colour_of_the_page() -> None:
    curves = Curves([(1, 2.0), (2, 1.0)], [(2, 1.5)])
    chart = drawn(run=curves)
    with rc_context({"axes.facecolor": "red", "lines.linewidth": 9}):  # what a user may have set
        assert chart == drawn(run=curves)
    assert ">step<" in chart.svg  # words stay text
    assert "currentColor" in chart.svg
    assert INK not in chart.svg
    assert not re.search(r"https?:|<style|<metadata|axes_1|<\?xml", chart.svg)


@pytest.mark.parametrize(
    "curves", [Curves([(1, 2.0)], []), Curves([], [(5, 0.0)]), Curves([(1, 1), (2, 1)], [])]
)
def test_chart_of_hardly_anything(curves: Curves) -> None:
    ElementTree.fromstring(xml(drawn(run=curves)))


def test_no_points_no_chart() -> None:
    assert draw_curves({"run": Curves([], [])}) is None
    assert draw_curves({}) is None


def test_runs_are_laid_over_each_other_on_the_same_axes() -> None:
    short, long = Curves([(1, 4.0), (50, 3.0)], [(50, 2.0)]), Curves([(1, 4.0), (100, 1.0)], [])
    chart = drawn(short=short, none=Curves([], []), long=long)
    assert [(line.name, line.last_valid) for line in chart.lines] == [("short", 2.0), ("long", None)]
    (first, valid), second = lines_in(chart, COLOURS[0]), lines_in(chart, COLOURS[1])[0]
    assert first[0] == second[0]  # step 1, loss 4
    assert valid[0][0] == first[1][0] < second[1][0]
    assert first[1][1] < valid[0][1] < second[1][1]


def test_more_runs_than_colours_are_dashed() -> None:
    curves = Curves([(1, 1.0), (2, 2.0)], [])
    few = {f"run {i}": curves for i in range(len(COLOURS))}
    assert "stroke-dasharray" not in drawn(**few).svg
    assert "stroke-dasharray" in drawn(**few, more=curves).svg


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
