from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.toy import ToyModel, write_config, write_dataset
from xraygpt.runners import runner_base
from xraygpt.runners.launch import launch


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (100, ["split train: 4 of 13 reports are", "split val: 2 of 5 reports are"]),
        (7, ["split train: 1 of 7 reports looked at (13 in all) are", "split val: 2 of 5 reports are"]),
    ],
)
def test_reports_that_are_cut_are_counted_once_for_each_split(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    told: list[str],
) -> None:
    def cut(self: ToyModel, captions: Sequence[str]) -> int:
        return sum(int(text.split()[1]) > 6 for text in captions)  # "value 7"

    monkeypatch.setattr(ToyModel, "cut_captions", cut)
    monkeypatch.setattr(runner_base, "MAX_COUNTED", limit)
    storage = write_dataset(tmp_path / "data")
    cfg = write_config(tmp_path / "c.yaml", storage, tmp_path / "out", valid_splits=["val"])
    launch(Namespace(cfg_path=str(cfg), options=["run.max_epoch=2"]))
    log = (tmp_path / "out" / "log.txt").read_text(encoding="utf-8").splitlines()
    lines = [line.partition("data set openi, ")[2] for line in log if "max_txt_len and" in line]
    assert [line.partition(" longer")[0] for line in lines] == told
