"""``python -m xraygpt COMMAND …``, the same as ``xraygpt COMMAND …``."""

from __future__ import annotations

import sys

from xraygpt.cli import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m xraygpt"))
