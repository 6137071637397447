"""``python -m tests.parity [FOLDER]``: compare this library with recorded numbers of the reference."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.parity.golden import Case, cases
from tests.parity.runners import runner_of

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "golden" / "public"
HEADER = f"{'case':<34} {'max abs':>9} {'max rel':>9} {'tolerance':>9}  ok"


def run(case: Case) -> str:
    """Run a case; "yes", "no" or "not run"."""
    runner = runner_of(case.spec["reference"])
    if runner is None:
        return "not run"
    try:
        runner(case)
        case.comparison.finish()
    except Exception as error:  # a case that fails must not hide the others
        place = traceback.extract_tb(error.__traceback__)[-1]
        case.comparison.problem(type(error).__name__, f"{error} ({Path(place.filename).name}:{place.lineno})")
    return "yes" if case.comparison.ok else "no"


def row(case: Case, ok: str) -> str:
    """One line of the table; the tolerance is that of the array that comes closest to its own."""
    found = case.comparison
    numbers = (found.max_abs, found.max_rel, found.tolerance)
    texts = ["-"] * 3 if ok == "not run" else [f"{number:.1e}" for number in numbers]
    return f"{case.name:<34} {texts[0]:>9} {texts[1]:>9} {texts[2]:>9}  {ok}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each case, then what falls short and what differs on purpose."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    default = os.environ.get("XRAYGPT_GOLDEN", DEFAULT)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(default), help="folder with the cases")
    folder = parser.parse_args(arguments).folder
    found = cases(folder) if folder.is_dir() else []
    if not found:
        print(f"error: no cases in {folder}; name their folder, or set XRAYGPT_GOLDEN", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    print(HEADER)
    results = []
    for case in found:
        ok = run(case)
        results.append(ok)
        print(row(case, ok), flush=True)
        for problem in case.comparison.problems:
            print(f"    {problem}")
        for name, reason in case.comparison.decided.items():
            print(f"    differs on purpose: {name}: {reason}")
    counts = ", ".join(f"{results.count(ok)} {ok}" for ok in ("yes", "no", "not run"))
    print(f"{len(results)} cases: {counts}")
    return 0 if all(ok == "yes" for ok in results) else 1


if __name__ == "__main__":
    sys.exit(main())
