"""Running a command: exit statuses and what is printed."""

from __future__ import annotations

import argparse
import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from xraygpt.common import command_line
from xraygpt.common.command_line import Terminated, command_text, guarded, run_command
from xraygpt.common.errors import ConfigError, DataError


def raising(error: BaseException) -> Callable[[argparse.Namespace], None]:
    def run(args: argparse.Namespace) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (DataError("a.csv: line 3: wrong"), 2, "error: a.csv: line 3: wrong\n"),
        (OSError(28, "No space left on device", "out/x"), 2, "error: out/x: No space left on device\n"),
        (OSError("odd"), 2, "error: odd\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_for_people(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(argparse.Namespace(run=raising(error))) == status
    assert capsys.readouterr().err == message


def test_a_fault_in_the_program_is_a_line_with_its_traceback_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = logging.FileHandler(tmp_path / "log.txt")
    project = logging.getLogger("xraygpt")
    level = project.level
    project.setLevel(logging.DEBUG)
    logging.getLogger().addHandler(file)
    try:
        assert run_command(argparse.Namespace(run=raising(ZeroDivisionError("odd\nmore")))) == 1
    finally:
        logging.getLogger().removeHandler(file)
        project.setLevel(level)
    assert capsys.readouterr().err.startswith("error: ZeroDivisionError: odd (traceback in ")
    assert "Traceback" in (tmp_path / "log.txt").read_text()


def test_advice_follows_what_is_no_fault_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    ends = {
        Terminated(signal.SIGTERM): (143, "stopped by SIGTERM; resume with: x\n"),
        OSError(28, "full", "a"): (2, "error: a: full; once that is fixed, resume with: x\n"),
        DataError("b: wrong"): (2, "error: b: wrong\n"),
    }
    for error, (status, message) in ends.items():
        run = raising(error)
        assert guarded(lambda run=run: run(argparse.Namespace()) or 0, lambda: "resume with: x") == status
        assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("error", "own", "message"),
    [
        (DataError("wrong"), True, "process 1: error: wrong\n"),
        (ConfigError("wrong"), False, ""),
        (RuntimeError("[gloo] Connection closed by peer"), False, ""),
        (KeyboardInterrupt(), False, ""),
    ],
)
def test_other_processes_tell_only_what_hit_them_alone(
    error: BaseException,
    own: bool,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(command_line, "SECONDS_FOR_MESSAGE", 0.0)
    monkeypatch.setattr(command_line, "_log_traceback", lambda: "")
    run_command(argparse.Namespace(run=raising(error)))
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("argv", "verb", "expected"),
    [
        (["train.py", "--cfg-path", "a"], None, "python train.py --cfg-path c.yaml --options a.b=1"),
        (["train.py"], "evaluate", "python evaluate.py --cfg-path c.yaml --options a.b=1"),
        (["/a/mine.py"], None, "python /a/mine.py --cfg-path c.yaml --options a.b=1"),
        (["/a/mine.py"], "evaluate", "python -m xraygpt evaluate --cfg-path c.yaml --options a.b=1"),
        (["/usr/bin/xraygpt", "train", "--x"], None, "xraygpt train --cfg-path c.yaml --options a.b=1"),
        (["/usr/bin/xraygpt", "train"], "demo", "xraygpt demo --cfg-path c.yaml --options a.b=1"),
        (
            ["/lib/xraygpt/__main__.py", "train"],
            None,
            "python -m xraygpt train --cfg-path c.yaml --options a.b=1",
        ),
    ],
)
def test_commands_are_given_as_they_were_typed(
    argv: list[str], verb: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # that of pytest
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert command_text(verb=verb, cfg_path="c.yaml", options=["a.b=1"]) == expected


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1)])
def test_the_status_is_what_the_command_returns(returned: int | None, status: int) -> None:
    assert run_command(argparse.Namespace(run=lambda args: returned)) == status


def test_output_that_nobody_reads_on_ends_the_program_without_a_message() -> None:
    code = "import sys; from xraygpt.common.command_line import guarded\n"
    code += "sys.exit(guarded(lambda: [print('x' * 9999, flush=True) for _ in range(99)]))"
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None
    program.stdout.close()
    assert program.stderr is not None
    assert (program.stderr.read(), program.wait(timeout=60)) == (b"", 141)
    program.stderr.close()
