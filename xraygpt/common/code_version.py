"""Which code is running, and how packages are added to it."""

from __future__ import annotations

import subprocess

from xraygpt.common.paths import package_root

DISTRIBUTION = "xraygpt-cxr"
"""Name of the package for pip; ``xraygpt`` on the package index is an unrelated tool for e-books."""


def install_hint(extra: str) -> str:
    """Return the command that installs an extra ("demo", "dicom", …) beside the code that is running."""
    if (package_root().parent / "constraints.txt").is_file():
        return f'python -m pip install -c constraints.txt -e ".[{extra}]"'
    return f'python -m pip install "{DISTRIBUTION}[{extra}]"'


def git_hash() -> str | None:
    """Return the commit that the code comes from; None when it is no checkout."""
    root = package_root().parent
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
