"""Running the command that a parsed command line names."""

from __future__ import annotations

import argparse
import sys

from xraygpt.common.errors import XrayGPTError


def run_command(args: argparse.Namespace) -> int:
    """Call ``args.run(args)``; return the exit status.

    It is what the call returns, 0 for None, 2 after an error that the user can mend (a full disk included),
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
