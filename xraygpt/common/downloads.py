"""What lands under the name of a download by mistake."""

from __future__ import annotations

import re

HEAD_BYTES = 512
"""How much of a file `mistaken_download` wants to see."""

_LFS_HEADER = b"version https://git-lfs.github.com/spec/"
_HTML_START = re.compile(rb"^\s*(<!doctype html|<html|<\?xml)", re.IGNORECASE)


def mistaken_download(head: bytes, what: str) -> str | None:
    """Say what is wrong with a file that begins with `head`, and what to do; None if it looks like neither.

    Args:
        head: the first `HEAD_BYTES` of the file.
        what: what it ought to be, e.g. "the weights".
    """
    if not head:
        return "the file is empty."
    if head.startswith(_LFS_HEADER):
        return (
            f"a Git-LFS pointer, not {what}. Fetch the file itself with `git lfs pull` in the folder it came "
            "from, or download it from its page."
        )
    if _HTML_START.match(head):
        return (
            f"a web page, not {what} (a download link often answers with a page to confirm or to log in). "
            "Download it again and check that its size is the expected one."
        )
    return None
