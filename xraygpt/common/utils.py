"""Small helpers, most of them the reference's, by its names."""

from __future__ import annotations

import os
import time
from pathlib import Path

from xraygpt.common.files import load_json
from xraygpt.common.paths import is_remote, package_root

__all__ = ["available_cores", "format_bytes", "get_abs_path", "is_url", "load_json", "makedir", "now"]


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def format_bytes(count: float) -> str:
    """Return a number of bytes as people write it, e.g. "17.9 GiB"."""
    units = ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)
    name, bits = next((unit for unit in units if count >= 1 << unit[1]), units[-1])
    return f"{count / (1 << bits):,.1f} {name}"


def now() -> str:
    """Return the local time to the second, e.g. "20240131_235959", as used for job names."""
    return time.strftime("%Y%m%d_%H%M%S")


def is_url(url_or_filename: str) -> bool:
    """Tell whether the text names a remote file rather than a local one."""
    return is_remote(url_or_filename)


def get_abs_path(rel_path: str) -> str:
    """Return where a file of the package lies, e.g. for "configs/models/minigpt4_vicuna.yaml"."""
    return str(package_root() / rel_path)


def makedir(dir_path: str | Path) -> None:
    """Make a folder and those above it; no error if it exists."""
    Path(dir_path).mkdir(parents=True, exist_ok=True)
