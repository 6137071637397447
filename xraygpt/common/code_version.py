"""Which state of the code is running."""

from __future__ import annotations

import subprocess

from xraygpt.common.paths import package_root


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
