"""Command lines: parsed, recorded as they were typed, run, and what is said when one of them fails."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from xraygpt.common.errors import DataError, XrayGPTError, did_you_mean

SECONDS_FOR_MESSAGE = 3.0
"""torchrun stops all processes once one has failed, so the others let the main one say why first."""
PEER_IS_GONE = ("closed by peer", "reset by peer", "broken pipe", "remote process exited", "nccl", "gloo")
"""What PyTorch's messages contain in a process that waits for another one which has ended."""
WORKER_IS_GONE = "DataLoader worker"
STOPPING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a program like Ctrl-C; SIGHUP comes when its terminal is closed."""

logger = logging.getLogger(__name__)


class Terminated(BaseException):
    """A signal of `STOPPING` has arrived; its number is the argument."""


class Parser(argparse.ArgumentParser):
    """A parser that names the nearest choice for a mistyped one."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error; exit with status 2."""
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong is not None:
            known = [name.strip("' ") for name in wrong[2].split(",")]
            message = f"no such choice: '{wrong[1]}'{did_you_mean(wrong[1], known)} Known: {', '.join(known)}"
        super().error(message)


def parse_and_run(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Run the command that a command line names; return the exit status, see `run_command`.

    Args:
        parser: sets ``run``, the function that takes the parsed command line, and may set ``check``, which
            refuses arguments that do not go together.
        argv: the words after the program's name; None for those that the program was started with.
    """
    args = parser.parse_args(argv)
    if "check" in args:
        args.check(args)
    args.command_line = typed_command() if argv is None else typed_command([*parser.prog.split(), *argv])
    return run_command(args)


def whole_number(least: int) -> Callable[[str], int]:
    """Return the ``type`` of an argument that is a whole number, `least` or more."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of {least} or more")
        return int(text)

    return parse


def run_command(args: argparse.Namespace) -> int:
    """Call ``args.run(args)``; return the exit status (see `guarded`), 0 for a call that returns None."""
    return guarded(lambda: int(args.run(args) or 0))


def guarded(run: Callable[[], int], advice: Callable[[], str] | None = None) -> int:
    """Call `run`; say in one line on stderr what stopped it, and return the exit status.

    The status is what `run` returns; 2 after an error that the user can fix, a full disk included; 130 after
    Ctrl-C; 143 after SIGTERM; 129 after SIGHUP; 141, without a message, where its output is read no further;
    1 after anything else, whose traceback goes to the log file.

    Of several processes the main one speaks; of a sample or a file that cannot be used, or of a fault in the
    program, the process that met it.

    Args:
        advice: returns what to do after anything but an `XrayGPTError`, as the end of a sentence.
    """
    before = {}
    is_main = threading.current_thread() is threading.main_thread()
    if is_main:
        # Not where somebody else has a handler, or where a shell has them ignored (nohup).
        usual = {signal.SIGINT: signal.default_int_handler, **dict.fromkeys(STOPPING, signal.SIG_DFL)}
        before = {number: handler for number, handler in usual.items() if signal.getsignal(number) == handler}
    for number in before:
        signal.signal(number, _stop)
    try:
        return run()
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if is_main and _stop in map(signal.getsignal, STOPPING):  # set here, or by a call around this one
            _hold_signals()
        return _report(error, advice)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: Any) -> None:
    """End the program like an exception, so that files are closed and removed."""
    _hold_signals()
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)


def _hold_signals() -> None:
    """Let nothing come between the end and its message.

    torchrun sends its processes, and those that load data for them, more than one signal; PyTorch has a
    handler that raises an error for each loading process that ends.
    """
    for number in (signal.SIGINT, *STOPPING, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # SIG_IGN would complain about those that are pending


def _report(error: BaseException, advice: Callable[[], str] | None) -> int:
    status, message, of_this_process = _ending(error)
    if not message:
        return status
    if advice is not None and not isinstance(error, XrayGPTError):
        message += f"; {'once that is fixed, ' if status == 2 else ''}{advice()}"
    rank = os.environ.get("RANK", "0")
    if rank == "0" or of_this_process:
        # The end of the line with it: processes and torchrun share stderr.
        sys.stderr.write(f"{message}\n" if rank == "0" else f"process {rank}: {message}\n")
        sys.stderr.flush()
    if rank != "0" and isinstance(error, Exception):
        time.sleep(SECONDS_FOR_MESSAGE)
    return status


def _ending(error: BaseException) -> tuple[int, str, bool]:
    """Return exit status, message, and whether it is this process that was hit rather than all of them."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted", False
    if isinstance(error, RuntimeError) and WORKER_IS_GONE in str(error) and "Terminated" in str(error):
        error = Terminated(signal.SIGTERM)  # which all processes of a group get, in any order
    if isinstance(error, Terminated):
        number = signal.Signals(error.args[0])
        return 128 + number, f"stopped by {number.name}", False
    if isinstance(error, BrokenPipeError):  # what read the output, such as head, wants no more of it
        with open(os.devnull, "w") as nowhere:  # where Python puts the rest at its end
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 128 + signal.SIGPIPE, "", False
    if isinstance(error, XrayGPTError):
        return 2, f"error: {error}", isinstance(error, DataError)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return 2, f"error: {place}{error.strerror or error}", True
    log = _log_traceback()
    text = str(error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    if isinstance(error, RuntimeError) and WORKER_IS_GONE in text:
        return 1, f"error: a process that loads data has ended: {line} Memory may have run out{log}", True
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return 1, f"error: out of memory ({line}); lower run.batch_size_train or run.num_workers{log}", True
    if isinstance(error, RuntimeError) and any(words in text.lower() for words in PEER_IS_GONE):
        return 1, f"error: another process of this run has ended{log}", False
    return 1, f"error: {type(error).__name__}: {line}{log}", True


def _log_traceback() -> str:
    """Write the traceback of the exception at hand to the log file, or to stderr if there is none yet."""
    files = [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]
    if not files:
        logger.error("traceback:", exc_info=True)
        return ""
    logger.debug("traceback:", exc_info=True)
    return f" (traceback in {os.path.relpath(files[0].baseFilename)})"


def typed_command(words: Sequence[str] | None = None) -> str:
    """Return a command line as it was typed, for records: ``xraygpt train …`` or ``python train.py …``.

    Args:
        words: the program and what follows it; None for those that Python was started with.
    """
    program, *given = sys.argv if words is None else words
    return shlex.join([*_under_torchrun(_start_of(program)), *given])


def command_text(*, verb: str | None = None, cfg_path: str, options: list[str]) -> str:
    """Return a command line with a configuration as one would type it, for this program or a sibling.

    Args:
        verb: "train", "evaluate" or "demo"; None for the program that is running, under torchrun if it is.
    """
    program, *given = sys.argv
    start = _start_of(program)
    if not verb:  # with the command, if it has one: xraygpt evaluate audit
        start += takewhile(lambda word: not word.startswith("-"), given)
    elif not start[-1].endswith(".py"):  # one program with commands
        start.append(verb)
    else:
        sibling = Path(program).with_name(f"{verb}.py")
        start = ["python", str(sibling)] if sibling.is_file() else ["python", "-m", "xraygpt", verb]
    start = start if verb else _under_torchrun(start)
    return shlex.join([*start, "--cfg-path", cfg_path, *(["--options", *options] if options else [])])


def _under_torchrun(start: list[str]) -> list[str]:
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return start
    return ["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"], *start[start[0] == "python" :]]


def _start_of(program: str) -> list[str]:
    """Return how a program is started: as a script, a module, or an installed command, without its folder."""
    path = Path(program)
    if path.name == "__main__.py":
        package = path.parent.name
        return ["python", "-m", package if package == "xraygpt" else f"xraygpt.{package}"]
    return ["python", program] if path.suffix == ".py" else [path.name.removesuffix(".exe")]
