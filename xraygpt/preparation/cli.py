"""The commands of ``xraygpt prepare``. What they need is imported when they run, so that --help is quick."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from xraygpt.common.command_line import Parser, parse_and_run
from xraygpt.preparation.commands import phantom, sources, tiny_model


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of ``prepare.py``; return the exit status, see `run_command`."""
    parser = Parser(prog="prepare.py")
    add_commands(parser)
    return parse_and_run(parser, argv)


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the sources, ``verify``, ``phantom``, ``contact-sheet``, ``tokenizers`` and ``tiny-parts``."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (sources, phantom, tiny_model):
        module.add_commands(commands)
