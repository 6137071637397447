"""Running the command that a parsed command line names."""

from __future__ import annotations

import argparse
import sys

from xraygpt.common.errors import XrayGPTError


def run_command(args: argparse.Namespace) -> int:
    """Call ``args.run(args)``; return the exit status, 2 after an error that the user can mend."""
    try:
        args.run(args)
    except XrayGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
