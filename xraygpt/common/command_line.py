"""Command lines: parsed, recorded as they were typed, and run with errors for people."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from xraygpt.common.errors import XrayGPTError, did_you_mean


def run_command(args: argparse.Namespace) -> int:
    """Call ``args.run(args)``; return the exit status.

    It is what the call returns, 0 for None, 2 after an error that the user can fix (a full disk included),
    and 130 after an interruption by Ctrl-C.
    """
    try:
        return int(args.run(args) or 0)
    except XrayGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


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
    args.command_line = typed_command() if argv is None else typed_command([parser.prog, *argv])
    return run_command(args)


def typed_command(words: Sequence[str] | None = None) -> str:
    """Return a command line as it was typed, for records: ``xraygpt train …`` or ``python train.py …``.

    Args:
        words: the program and what follows it; None for those that Python was started with.
    """
    program, *given = sys.argv if words is None else words
    path = Path(program)
    if path.name == "__main__.py":
        module = getattr(sys.modules["__main__"], "__spec__", None)
        start = f"python -m {module.parent if module else path.parent}"
    elif path.suffix == ".py":
        start = shlex.join(["python", program])
    else:  # the installed command, by its full path
        start = path.name.removesuffix(".exe")
    return f"{start} {shlex.join(given)}"
