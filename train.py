"""Train a model as a configuration says.

python train.py --cfg-path train_configs/xraygpt_mimic_pretrain.yaml --options run.max_epoch=2
torchrun --nproc-per-node 4 train.py --cfg-path train_configs/xraygpt_mimic_pretrain.yaml
"""

from __future__ import annotations

import argparse
import sys
import time

STARTED = time.time()  # before the slow imports, which count towards the run's wall time


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train a model as a configuration says.")
    parser.add_argument("--cfg-path", required=True, help="YAML file of the training")
    parser.add_argument(
        "--options",
        nargs="+",
        default=None,
        metavar="KEY=VALUE",
        help="settings in place of those in the file, e.g. run.max_epoch=2",
    )
    return parser.parse_args()


def main() -> int:
    """Train; return the exit status, 2 after an error that the user can mend."""
    args = parse_args()
    # Imported here so that --help does not wait for PyTorch.
    from xraygpt.runners.launch import run_program

    return run_program(args, evaluate_only=False, started=STARTED)


if __name__ == "__main__":
    sys.exit(main())
