"""Whether the files that a configuration names are there, told all at once before anything is built."""

from collections.abc import Callable, Iterable

from xraygpt.common.errors import MissingFileError
from xraygpt.common.paths import PACKAGE_PREFIX, is_remote, require_file

Check = Callable[[], object]
"""Raises MissingFileError if something is not there."""


def file_check(key: str, path: str | None, what: str, source: str) -> Check:
    """A check of one file; null and what is fetched from elsewhere pass.

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
