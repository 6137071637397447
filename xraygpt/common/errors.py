"""Errors meant for the person who runs the program.

The command-line programs catch `XrayGPTError`, print it as ``error: ...`` without a stack trace and exit
with status 2. Every message says what was wrong, where, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

MAX_NAMED = 5
"""How many problems of one kind `summarise` names."""


class XrayGPTError(Exception):
    """Base of all errors whose message alone is enough to act on."""

    def __str__(self) -> str:
        # KeyError would show the repr of its argument, with quotes and escaped line ends.
        return str(self.args[0]) if self.args else type(self).__name__


class ConfigError(XrayGPTError):
    """One or more problems in a configuration; `problems` holds one line for each."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        if len(self.problems) == 1:
            message = self.problems[0]
        else:
            lines = "\n".join(f"  - {problem}" for problem in self.problems)
            message = f"{len(self.problems)} problems in the configuration:\n{lines}"
        super().__init__(message)


class UnknownNameError(XrayGPTError, KeyError):
    """A name that is not registered."""

    def __init__(self, noun: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(
            f"no {noun} is called '{name}'{did_you_mean(name, names)} "
            f"Registered: {', '.join(names) if names else 'none'}."
        )


class MissingFileError(XrayGPTError, FileNotFoundError):
    """A file that has to be there and is not."""


class CheckpointError(XrayGPTError):
    """A weight file that cannot be read, or does not fit the model."""


class DataError(XrayGPTError):
    """An annotation file, an image or a sample that cannot be used."""


class UnavailableMetricError(XrayGPTError):
    """A metric that needs a package, weights or a Java machine that is not there; says how to get it."""


class NonFiniteLossError(XrayGPTError):
    """The loss became NaN or infinite; training has stopped."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or a full stop when nothing comes close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else "."


def summarise(what: str, problems: Sequence[str]) -> str:
    """Return the number of problems and the first few of them, one a line."""
    lines = "".join(f"\n  {problem}" for problem in problems[:MAX_NAMED])
    more = f"\n  ... and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
    return f"{len(problems)} {what}:{lines}{more}"
