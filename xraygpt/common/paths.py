"""Where files are: paths as they are written in a configuration, and remote files as local ones."""

from __future__ import annotations

import importlib.resources
import logging
import os
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from xraygpt.common.errors import MissingFileError, did_you_mean

DISTRIBUTION = "xraygpt-cxr"
"""Name of the package for pip; ``xraygpt`` on the package index is an unrelated tool for e-books."""
PACKAGE_PREFIX = "package:"
HUB_PREFIX = "hf://"
URL_PREFIXES = ("http://", "https://")
SHIPPED_FOLDERS = ("train_configs", "eval_configs", "prompts")
"""Folders of a checkout that an installed package carries inside it."""

logger = logging.getLogger(__name__)


def package_root() -> Path:
    """Return the folder of the installed ``xraygpt`` package."""
    return Path(str(importlib.resources.files("xraygpt")))


def shipped_root() -> Path:
    """Return the folder that holds `SHIPPED_FOLDERS`: the installed package, or the checkout."""
    packed = package_root() / SHIPPED_FOLDERS[0]
    return package_root() if packed.is_dir() else package_root().parent


def cache_root() -> Path:
    """Return the folder of what can be computed again: ``$XRAYGPT_CACHE``, or ``~/.cache/xraygpt``."""
    return Path(os.environ.get("XRAYGPT_CACHE") or Path.home() / ".cache" / "xraygpt")


def install_hint(extra: str) -> str:
    """Return the command that installs an extra ("demo", "dicom", …) beside the code that is running."""
    if (package_root().parent / "constraints.txt").is_file():
        return f'python -m pip install -c constraints.txt -e ".[{extra}]"'
    return f'python -m pip install "{DISTRIBUTION}[{extra}]"'


def is_remote(text: str) -> bool:
    """Tell whether `text` names a web address or a file of the Hugging Face hub."""
    return text.startswith((*URL_PREFIXES, HUB_PREFIX))


def resolve_path(text: str | Path) -> Path | str:
    """Turn a path as written in a configuration into a path on this machine.

    ``package:weights/tiny`` lies inside the installed package; ``~`` is the home folder; a relative path
    counts from the current folder. Where nothing is there and the path leads into one of `SHIPPED_FOLDERS`,
    the shipped file or folder of that name stands in: ``prompts/alignment.txt`` works in any folder, and your
    own file of that name wins. Web addresses and ``hf://`` names are returned as they are, as `str`.
    It need not exist.
    """
    text = str(text)
    if is_remote(text):
        return text
    if text.startswith(PACKAGE_PREFIX):
        return package_root() / text.removeprefix(PACKAGE_PREFIX).lstrip("/")
    path = Path(text).expanduser()
    shipped = _shipped(path)
    if shipped is None or path.exists() or not shipped.exists() or len(path.parts) == 1:
        return path
    _note(path, shipped)
    return shipped


def searched(path: Path) -> str:
    """Return a path that leads to no file, with every place that `resolve_path` looked in, for a message."""
    if _shipped(path) is None:
        return str(path)
    root = shipped_root()
    known = [file.relative_to(root).as_posix() for file in root.glob(f"{path.parts[0]}/**/*.*")]
    elsewhere = "" if root == Path.cwd() else f", and among the files that ship with xraygpt, {root}"
    places = f"looked in the current folder, {Path.cwd()}{elsewhere}"
    return f"{path} ({places}{did_you_mean(path.as_posix(), known).rstrip('.')})"


def _shipped(path: Path) -> Path | None:
    """Return where a path lies among the shipped files; None if it cannot lie there."""
    if path.parts[:1] and path.parts[0] in SHIPPED_FOLDERS and ".." not in path.parts:
        return shipped_root() / path
    return None


@cache  # says it once
def _note(path: Path, shipped: Path) -> None:
    logger.info("%s is not in the current folder; using the shipped %s", path, shipped)


def require_file(text: str | Path, what: str, source: str, where: str = "") -> Path:
    """Return the path of an existing local file or folder.

    Args:
        text: the path as written in the configuration (see `resolve_path`).
        what: what the file is, e.g. "the weights of EVA-ViT-g".
        source: where to get it from, e.g. a web address or the step that makes it.
        where: the configuration key that names it, e.g. "model.ckpt".

    Raises:
        MissingFileError: nothing is there; the message repeats all of the above.
    """
    path = resolve_path(text)
    if isinstance(path, Path) and path.exists():
        return path
    place = f"put it there or set {where} to where it is" if where else "put it there"
    found = searched(path) if isinstance(path, Path) else path
    raise MissingFileError(f"missing file: {what}\n  expected at: {found} ({place})\n  comes from:  {source}")


def cached_file(url_or_path: str | Path) -> Path:
    """Return a local file for a local path, an ``http(s)://`` address or ``hf://owner/repository/file``.

    A remote file is downloaded once, into iopath's or huggingface_hub's cache. A local path may be that of
    a folder.

    Raises:
        MissingFileError: the file does not exist, or could not be fetched.
    """
    path = resolve_path(url_or_path)
    if isinstance(path, Path):
        if not path.exists():
            raise MissingFileError(f"missing file: {searched(path)}")
        return path
    try:
        if path.startswith(HUB_PREFIX):
            from huggingface_hub import hf_hub_download  # slow to import, and seldom needed, like iopath

            parts = path.removeprefix(HUB_PREFIX).split("/", 2)
            if len(parts) != 3 or not all(parts):
                raise MissingFileError(f"'{path}' is not of the form hf://owner/repository/file")
            return Path(hf_hub_download(repo_id="/".join(parts[:2]), filename=parts[2]))
        from iopath.common.file_io import HTTPURLHandler, PathManager

        manager = PathManager()
        manager.register_handler(HTTPURLHandler())
        return Path(manager.get_local_path(path))
    except MissingFileError:
        raise
    except Exception as error:  # the two libraries share no base class of their errors
        raise MissingFileError(
            f"could not fetch {path}: {error}\n  download it by hand and name the local file instead"
        ) from error


def leads_outside(name: str) -> str | None:
    """Say why a path is not one below its root, on any system; None if it is."""
    if re.match(r"[/\\]|[A-Za-z]:", name):
        return "its path is absolute"
    if ".." in re.split(r"[/\\]", name):
        return "its path leads upwards (..)"
    return None


Check = Callable[[], object]
"""Raises MissingFileError if something is not there."""


def file_check(key: str, path: str | None, what: str, source: str) -> Check:
    """Return a check of one file; null and what is fetched from elsewhere pass.

    Args:
        key: of the configuration, e.g. "model.ckpt".
        what, source: what it is and where it comes from, see `require_file`.
    """

    def check() -> None:
        if path is not None and not is_remote(path):
            here = path.startswith(PACKAGE_PREFIX)
            require_file(path, what, "this repository, or `make tiny`" if here else source, where=key)

    return check


def require_all(checks: Iterable[Check]) -> None:
    """Run all checks.

    Raises:
        MissingFileError: with a paragraph for each that failed, the same one only once.
    """
    problems: list[str] = []
    for check in checks:
        try:
            check()
        except MissingFileError as error:
            problems.append(str(error))
    if problems:
        raise MissingFileError("\n".join(dict.fromkeys(problems)))
