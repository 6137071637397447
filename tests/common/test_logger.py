import errno
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from xraygpt.common import logger as logger_module
from xraygpt.common.logger import MetricsWriter, SmoothedValue, progress, setup_logger


@pytest.fixture
def _root_logger():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("_root_logger")
def test_log_lines_go_to_stderr_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logger(tmp_path / "new")
    logging.getLogger("anything").info("hello")
    assert "INFO hello" in (tmp_path / "new" / "log.txt").read_text()
    captured = capsys.readouterr()
    assert "INFO hello" in captured.err
    assert captured.out == ""


@pytest.mark.usefixtures("_root_logger")
def test_other_processes_only_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger_module, "is_main_process", lambda: False)
    setup_logger(tmp_path)
    assert logging.getLogger().level == logging.WARNING
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_root_logger")
def test_what_libraries_say_is_for_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logger(tmp_path)
    logging.getLogger("py.warnings").warning("old way")
    logging.getLogger("transformers.generation").warning("odd flags")
    logging.getLogger("xraygpt.x").debug("the configuration")
    logging.getLogger("huggingface_hub.x").error("broken")
    written = (tmp_path / "log.txt").read_text()
    assert all(text in written for text in ("old way", "odd flags", "the configuration", "broken"))
    shown = capsys.readouterr().err
    assert "broken" in shown
    assert not any(text in shown for text in ("old way", "odd flags", "the configuration"))


@pytest.mark.usefixtures("_root_logger")
def test_a_log_that_cannot_be_written_is_an_error_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup_logger(tmp_path)

    def full(self: logging.StreamHandler[Any]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(logging.StreamHandler, "flush", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*log\.txt'"):
        logging.getLogger("xraygpt").info("hello")


def test_lines_of_a_loop_that_resumes_count_from_its_beginning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        list(progress(range(3), total=10, desc="epoch 2", status=lambda: "loss 1", every=4, first=7))
    assert [line.split(",")[0] for line in caplog.messages] == ["epoch 2: 8/10", "epoch 2: 10/10"]
    assert caplog.messages[-1].endswith("about 0 s left  loss 1")


def test_metrics_are_appended_one_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    for step in (1, 2):
        writer = MetricsWriter(path)
        writer.write({"step": step, "loss": torch.tensor(0.5), "bad": float("nan"), "all": (1, 2)})
        # flushed: it is there before the file is closed
        assert len(path.read_text().splitlines()) == step
        writer.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": s, "loss": 0.5, "bad": None, "all": [1, 2]} for s in (1, 2)]


def test_only_process_0_writes_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger_module, "is_main_process", lambda: False)
    MetricsWriter(tmp_path / "m.jsonl").write({"step": 1})
    assert list(tmp_path.iterdir()) == []


def test_smoothed_value() -> None:
    series = SmoothedValue(window_size=3, fmt="{median:.1f} {avg:.1f} {global_avg:.1f} {max:.1f} {value:.1f}")
    assert str(series) == "no values"
    for value in (10.0, 1.0, 2.0, 6.0):
        series.update(value)
    assert str(series) == "2.0 3.0 4.8 6.0 6.0"


def test_smoothed_value_weights_the_mean_over_everything() -> None:
    series = SmoothedValue()
    series.update(1.0, n=3)
    series.update(5.0)
    assert series.global_avg == 2.0


def test_smoothed_value_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two processes: this one saw 1.0 three times, the other 5.0 once.
    means = iter([(3.0 + 5.0) / 2, (3 + 1) / 2])
    monkeypatch.setattr(logger_module, "all_reduce_mean", lambda value: next(means))
    monkeypatch.setattr(logger_module, "get_world_size", lambda: 2)
    series = SmoothedValue()
    series.update(1.0, n=3)
    series.synchronize_between_processes()
    assert series.count == 4
    assert series.global_avg == 2.0


def test_progress_writes_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logger_module, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO):
        assert list(progress(range(2), total=2, desc="reading")) == [0, 1]
    assert [line.split(",")[0] for line in caplog.messages] == ["reading: 1/2", "reading: 2/2"]


def test_progress_says_how_long_it_will_take(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(logger_module.time, "monotonic", lambda: float(next(clock)))
    with caplog.at_level(logging.INFO):
        list(progress(range(3), total=3, desc="reading"))
        list(progress(iter([1])))
    assert caplog.messages == [
        "reading: 1/3, 20 s, about 40 s left",
        "reading: 2/3, 40 s, about 20 s left",
        "reading: 3/3, 60 s, about 0 s left",
        "progress: 1, 20 s",
    ]
