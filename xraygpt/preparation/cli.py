"""The commands of prepare.py. What they need is imported when they run, so that --help is quick."""

from __future__ import annotations

import argparse
import shlex
import sys

from xraygpt.common.command_line import run_command
from xraygpt.preparation.commands import phantom, sources, tiny_model


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status, see `run_command`."""
    given = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(given)
    args.command_line = shlex.join(["python", "prepare.py", *given])
    return run_command(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prepare.py",
        description="Turn raw data into a folder that trains, and prepare what else a training needs.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (sources, phantom, tiny_model):
        module.add_commands(commands)
    return parser
