"""Score a model on the test splits of a configuration: generate a report for each image, print the metrics.

python evaluate.py --cfg-path eval_configs/quickstart.yaml --options model.ckpt=checkpoint_best.pth
"""

from __future__ import annotations

import argparse
import sys
import time

STARTED = time.time()  # before the slow imports, which count towards the run's wall time


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Score a model on the test splits of a configuration.")
    parser.add_argument("--cfg-path", required=True, help="YAML file of the evaluation")
    parser.add_argument(
        "--options",
        nargs="+",
        default=None,
        metavar="KEY=VALUE",
        help="settings in place of those in the file, e.g. model.ckpt=checkpoint_best.pth",
    )
    return parser.parse_args()


def main() -> int:
    """Evaluate; return the exit status, 2 after an error that the user can mend."""
    args = parse_args()
    # Imported here so that --help does not wait for PyTorch.
    from xraygpt.runners.launch import run_program

    return run_program(args, evaluate_only=True, started=STARTED)


if __name__ == "__main__":
    sys.exit(main())
