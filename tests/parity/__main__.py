"""``python -m tests.parity [FOLDER]``: compare this library with recorded numbers of the reference.

Without FOLDER it takes the cases in ``tests/parity/cases``, which come with the repository.

Each number is held to its recorded tolerance. The column "1e-5" says whether all arrays and losses of a
case are also within 1e-5 absolute: "yes", "reordered" if only in the reference's own order of operations
(attention written out, no cache), or "no". What is above 1e-5 is listed, with the rounding error of the
reference itself where that is recorded.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.parity.arithmetic import reference_order
from tests.parity.comparison import Comparison
from tests.parity.golden import Case, cases
from tests.parity.runners import runner_of

DEFAULT = Path(__file__).resolve().parent / "cases"
STRICT = 1e-5
"""Absolute difference that none should exceed, whatever the recorded tolerance."""
HEADER = (
    f"{'case':<34} {'max abs':>9} {'max rel':>9} {'tolerance':>9} {'gradients':>9}  {'1e-5':<9}  ok\n"
    f"{'':<34} {'':>9} {'':>9} {'':>9} {'(rel)':>9}"
)


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


def strictly(case: Case) -> tuple[str, list[str]]:
    """Whether a case that ran is within 1e-5, and a line for each result that is not."""
    above = {name: worst for name, worst in case.comparison.differences.items() if worst > STRICT}
    if not above:
        return "yes", []
    again = Case(case.file, case.spec)
    with reference_order():
        run(again)
    lines = [
        f"{name}: {worst:.1e}, in the reference's order {again.comparison.differences.get(name, 0.0):.1e}"
        f"{_rounding(case.comparison, name)}"
        for name, worst in above.items()
    ]
    return "reordered" if again.comparison.max_abs <= STRICT else "no", lines


def _rounding(found: Comparison, name: str) -> str:
    rounding = found.rounding(name)
    return "" if rounding is None else f"; the reference differs by {rounding:.1e} from itself in float64"


def row(case: Case, ok: str, strict: str) -> str:
    """One line of the table; the tolerance is that of the array that comes closest to its own."""
    found = case.comparison
    numbers = (found.max_abs, found.max_rel, found.tolerance, found.max_gradient)
    texts = ["-"] * 4 if ok == "not run" else [f"{number:.1e}" for number in numbers]
    return f"{case.name:<34} {' '.join(f'{text:>9}' for text in texts)}  {strict:<9}  {ok}"


def report(case: Case) -> tuple[str, str]:
    """Run a case and print its row, then what falls short and what differs on purpose."""
    ok = run(case)
    strict, lines = ("-", list[str]()) if ok == "not run" else strictly(case)
    print(row(case, ok, strict), flush=True)
    for line in [*case.comparison.problems, *lines]:
        print(f"    {line}")
    for name, reason in case.comparison.decided.items():
        print(f'    differs on purpose: {name}: docs/differences.md, "{reason}"')
    return ok, strict


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 if every case is within its tolerance, 1 if one is not, 2 if there is none."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.parity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT, help="folder with the cases")
    folder = parser.parse_args(arguments).folder
    found = cases(folder) if folder.is_dir() else []
    if not found:
        print(f"error: no cases in {folder}; name the folder that holds them", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    print(HEADER)
    results = [report(case) for case in found]
    for title, place in (("within the recorded tolerance", 0), ("within 1e-5 absolute", 1)):
        answers = [result[place] for result in results]
        print(f"{title}: " + ", ".join(f"{answers.count(a)} {a}" for a in dict.fromkeys(answers)))
    return 0 if all(ok == "yes" for ok, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main())
