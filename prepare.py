"""Prepare what a training needs: ``python prepare.py COMMAND --help``."""

from __future__ import annotations

import sys

from xraygpt.preparation.cli import main

if __name__ == "__main__":
    sys.exit(main())
