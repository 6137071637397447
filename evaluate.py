"""Generate reports for the test splits of a configuration and score them, or score reports that are there.

python evaluate.py --cfg-path eval_configs/quickstart.yaml --options model.ckpt=checkpoint_best.pth
python evaluate.py score predictions.csv --out scores
python evaluate.py compare predictions_a.csv predictions_b.csv
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time

from xraygpt.common.command_line import run_command
from xraygpt.evaluation.cli import add_commands

STARTED = time.time()  # before the slow imports, which count towards the run's wall time


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Generate reports for the test splits of a configuration and score them, or score and "
        "compare reports that are there.",
    )
    parser.add_argument("--cfg-path", help="YAML file of the evaluation")
    parser.add_argument(
        "--options",
        nargs="+",
        default=None,
        metavar="KEY=VALUE",
        help="settings in place of those in the file, e.g. model.ckpt=checkpoint_best.pth",
    )
    commands = parser.add_subparsers(metavar="COMMAND", title="in place of --cfg-path")
    add_commands(commands)
    args = parser.parse_args(argv)
    if ("run" in args) == (args.cfg_path is not None):
        parser.error("give either --cfg-path or a command (score, compare)")
    if "run" in args and args.options is not None:
        parser.error("--options belongs to --cfg-path")
    return args


def main(argv: list[str] | None = None) -> int:
    """Evaluate; return the exit status, 2 after an error that the user can mend."""
    given = sys.argv[1:] if argv is None else argv
    args = parse_args(given)
    if "run" in args:
        args.command_line = shlex.join(["python", "evaluate.py", *given])
        return run_command(args)
    # Imported here so that --help does not wait for PyTorch.
    from xraygpt.runners.launch import run_program

    return run_program(args, evaluate_only=True, started=STARTED)


if __name__ == "__main__":
    sys.exit(main())
