"""Chat about a chest radiograph in the browser.

python demo.py
python demo.py --cfg-path eval_configs/xraygpt_eval.yaml --server-port 7861 --device cuda
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

TINY = Path(__file__).parent / "eval_configs" / "demo_tiny.yaml"


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Chat about a chest radiograph in the browser.")
    parser.add_argument(
        "--cfg-path",
        default=str(TINY),
        help="YAML file of the model; by default the tiny model that comes with the package",
    )
    parser.add_argument("--device", default=None, help='"cpu", "cuda" or "cuda:N"; by default run.device')
    parser.add_argument("--server-port", type=_port, default=7860, help="port on 127.0.0.1 (default: 7860)")
    parser.add_argument(
        "--options",
        nargs="+",
        default=None,
        metavar="KEY=VALUE",
        help="settings in place of those in the file, e.g. model.ckpt=checkpoint_best.pth",
    )
    return parser.parse_args()


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a whole number from 1 to 65535, not '{text}'")
    return int(text)


def main() -> int:
    """Serve the demo; return the exit status."""
    args = parse_args()
    # Imported here so that --help does not wait for PyTorch and gradio.
    from xraygpt.common.command_line import guarded

    return guarded(lambda: _serve(args))


def _serve(args: argparse.Namespace) -> int:
    try:
        from xraygpt.demo.launch import launch
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        print("error: the demo needs gradio: pip install xraygpt[demo]", file=sys.stderr)
        return 2
    launch(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
