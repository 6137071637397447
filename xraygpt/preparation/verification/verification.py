"""What `verify_folder` finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from xraygpt.preparation.record.counts import Places


@dataclass(frozen=True, slots=True)
class Problem:
    """Things that are wrong in the same way."""

    what: str
    count: int
    first: tuple[str, ...]
    """The first few of them."""


@dataclass
class Verification:
    """What was checked and what is wrong."""

    folder: Path
    checked: list[str] = field(default_factory=list)
    """What was looked at, with numbers."""
    nothing: list[str] = field(default_factory=list)
    """Checks that had nothing to check, with the reason."""
    _found: dict[str, Places] = field(default_factory=dict)

    def add(self, what: str, place: str) -> None:
        """Note one problem; those with the same `what` are counted together."""
        self._found.setdefault(what, Places()).add(place)

    def add_counted(self, what: str, count: int, first: Iterable[str]) -> None:
        """Note several problems of which only the first few are known by name."""
        if count:
            self._found[what] = Places(count, list(first))

    @property
    def problems(self) -> list[Problem]:
        """Everything that is wrong; empty for a folder that is in order."""
        return [Problem(what, found.count, tuple(found.first)) for what, found in self._found.items()]

    def text(self) -> str:
        """Return the lines for a terminal: problems with counts and the first few, then what was checked."""
        lines: list[str] = []
        for problem in self.problems:
            lines.append(f"{problem.what}: {problem.count:,}")
            lines += [f"  {place}" for place in problem.first]
            if problem.count > len(problem.first):
                lines.append(f"  ... and {problem.count - len(problem.first):,} more")
        lines += [f"checked: {what}" for what in self.checked]
        lines += [f"not checked: {what}" for what in self.nothing]
        kinds = len(self.problems)
        verdict = f"{kinds} kinds of problems" if kinds > 1 else "1 kind of problem" if kinds else "in order"
        return "\n".join([*lines, f"{self.folder}: {verdict}"])
