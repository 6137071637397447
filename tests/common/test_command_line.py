"""Running a command: exit statuses and what is printed."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from xraygpt.common.command_line import run_command
from xraygpt.common.errors import DataError


def raising(error: BaseException) -> Callable[[argparse.Namespace], None]:
    def run(args: argparse.Namespace) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (DataError("a.csv: line 3: wrong"), 2, "error: a.csv: line 3: wrong\n"),
        (OSError(28, "No space left on device", "out/x"), 2, "error: out/x: No space left on device\n"),
        (OSError("odd"), 2, "error: a file: odd\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_for_people(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(argparse.Namespace(run=raising(error))) == status
    assert capsys.readouterr().err == message


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(argparse.Namespace(run=raising(ZeroDivisionError())))


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1)])
def test_the_status_is_what_the_command_returns(returned: int | None, status: int) -> None:
    assert run_command(argparse.Namespace(run=lambda args: returned)) == status
