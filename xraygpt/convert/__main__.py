"""``python -m xraygpt.convert to-hf …`` and ``… from-hf …``."""

from __future__ import annotations

import sys

from xraygpt.convert.cli import main

if __name__ == "__main__":
    sys.exit(main())
