"""``python -m xraygpt.convert …``, the same as ``xraygpt convert …``."""

from __future__ import annotations

import sys

from xraygpt.convert.cli import main

if __name__ == "__main__":
    sys.exit(main())
