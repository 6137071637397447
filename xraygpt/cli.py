"""The commands ``xraygpt train | evaluate | doctor | prepare | demo | convert | merge-adapter | tokenizers``.

``python -m xraygpt`` and the scripts of a checkout (``train.py``, ``evaluate.py``, ``prepare.py`` and
``demo.py``) run the same code. What a command needs is imported when it runs, so that --help is quick.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xraygpt import __version__
from xraygpt.common.command_line import Parser, parse_and_run
from xraygpt.common.errors import ConfigError
from xraygpt.common.paths import install_hint, shipped_root

WIDTH = 79
STARTED = time.time()  # before the slow imports, which count towards the wall time of a run


@dataclass(frozen=True)
class Command:
    """A command: what it is for, and its arguments; these set ``run``, the function that does the work."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    description: str = ""
    shipped: str = ""
    """Folder of the shipped files that --cfg-path may name."""

    def texts(self) -> dict[str, Any]:
        """Return the texts above and below the list of arguments, as `Parser` takes them."""
        description = self.description or f"{self.help[0].upper()}{self.help[1:]}."
        return {
            "description": textwrap.fill(description, WIDTH),
            "epilog": _shipped_files(self.shipped),
            "formatter_class": argparse.RawDescriptionHelpFormatter,
        }


def main(argv: Sequence[str] | None = None, prog: str = "xraygpt") -> int:
    """Run ``xraygpt COMMAND …``; return the exit status, see `run_command`.

    Args:
        argv: the words after the program's name; None for those that the program was started with.
        prog: the program's name in help and errors.
    """
    parser = Parser(prog=prog, description="Reports and chat on chest radiographs.")
    parser.add_argument("--version", action="version", version=f"xraygpt {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    words = sys.argv[1:] if argv is None else argv
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help, **command.texts())
        if name in words[:1]:
            command.add_arguments(subparser)
    return parse_and_run(parser, argv)


def run_script(name: str, argv: Sequence[str] | None = None) -> int:
    """Run one command as a script of a checkout, e.g. ``python train.py …``; return the exit status."""
    parser = Parser(prog=f"{name}.py", **COMMANDS[name].texts())
    COMMANDS[name].add_arguments(parser)
    return parse_and_run(parser, argv)


def _shipped_files(folder: str) -> str:
    if not folder:
        return ""
    root = shipped_root()
    files = sorted(path.relative_to(root).as_posix() for path in (root / folder).glob("**/*.yaml"))
    rule = (
        "Files that ship with xraygpt. Name one as it stands here, from any folder; a file of your own with "
        "that name takes precedence. To change one, copy it from"
    )
    return "\n  ".join([f"{textwrap.fill(rule, WIDTH)}\n{root}:", *files])


def _add_train(parser: argparse.ArgumentParser) -> None:
    _add_cfg_path(parser, "training", required=True)
    _add_options(parser, "run.max_epoch=2")
    parser.set_defaults(run=lambda args: _run_program(args, evaluate_only=False))


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    from xraygpt.evaluation.cli import add_commands

    _add_cfg_path(parser, "evaluation", required=False)
    _add_options(parser, "model.ckpt=checkpoint_best.pth")

    def check(args: argparse.Namespace) -> None:
        generates = args.run in (evaluate, audit)
        if generates != (args.cfg_path is not None):
            parser.error("give either --cfg-path or a command (audit, score, compare)")
        if args.options is not None and not generates:
            parser.error("--options belongs to --cfg-path")

    def evaluate(args: argparse.Namespace) -> int:
        return _run_program(args, evaluate_only=True)

    def audit(args: argparse.Namespace) -> int:
        return _run_program(args, evaluate_only=True, audit=True)

    parser.set_defaults(run=evaluate, check=check)
    commands = parser.add_subparsers(metavar="COMMAND", title="in place of --cfg-path")
    auditing = commands.add_parser(
        "audit",
        help="find out whether the reports of a model depend on the images",
        description="Generate the reports of the first test split of a configuration with its images, with "
        "blank ones and with a prompt that contradicts the image, exchange images between studies, and say "
        "what is left of the scores: audit.json and audit.html in the folder audit of run.output_dir.",
    )
    _add_cfg_path(auditing, "evaluation", required=True)
    _add_options(auditing, "model.ckpt=checkpoint_best.pth")
    auditing.set_defaults(run=audit)
    add_commands(commands)


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    from xraygpt.doctor.cli import add_arguments

    parser.add_argument("--cfg-path", required=True, metavar="YAML", help="configuration of the training")
    _add_options(parser, "run.batch_size_train=8")
    add_arguments(parser)


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    from xraygpt.preparation.cli import add_commands

    add_commands(parser)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    from xraygpt.convert.cli import add_commands

    add_commands(parser)


def _add_merge_adapter(parser: argparse.ArgumentParser) -> None:
    from xraygpt.convert.cli import add_merge_arguments

    add_merge_arguments(parser)


def _add_tokenizers(parser: argparse.ArgumentParser) -> None:
    from xraygpt.preparation.cli import add_tokenizer_arguments

    add_tokenizer_arguments(parser)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cfg-path",
        default="eval_configs/demo_tiny.yaml",
        metavar="YAML",
        help="configuration of the model (default: %(default)s, the tiny model that ships with xraygpt)",
    )
    parser.add_argument("--device", help='"cpu", "cuda" or "cuda:N" (default: run.device)')
    parser.add_argument("--server-port", type=_port, default=7860, help="port on 127.0.0.1 (default: 7860)")
    _add_options(parser, "model.ckpt=checkpoint_best.pth")
    parser.set_defaults(run=_demo)


def _add_cfg_path(parser: argparse.ArgumentParser, what: str, *, required: bool) -> None:
    several = f"configuration of the {what}, or several, which are run one after the other"
    parser.add_argument("--cfg-path", nargs="+", required=required, metavar="YAML", help=several)


def _add_options(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument(
        "--options",
        nargs="+",
        metavar="KEY=VALUE",
        help=f"settings that replace those of the file, e.g. {example}",
    )


def _run_program(args: argparse.Namespace, evaluate_only: bool, audit: bool = False) -> int:
    from xraygpt.runners.launch import run_program

    if len(args.cfg_path) > 1 and any(text.startswith("run.output_dir=") for text in args.options or ()):
        raise ConfigError("--options run.output_dir: all configurations would write to one folder")
    started = STARTED
    for path in args.cfg_path:
        run = argparse.Namespace(cfg_path=path, options=args.options)
        last = path is args.cfg_path[-1]
        if status := run_program(run, evaluate_only, started, last, audit):
            return status
        started = time.time()
    return 0


def _demo(args: argparse.Namespace) -> int:
    try:
        from xraygpt.demo.launch import launch
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        print(f"error: the demo needs gradio: {install_hint('demo')}", file=sys.stderr)
        return 2
    launch(args)
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a whole number from 1 to 65535, not '{text}'")
    return int(text)


COMMANDS = {
    "train": Command("train a model", _add_train, shipped="train_configs"),
    "evaluate": Command(
        "generate and score reports",
        _add_evaluate,
        description="Generate reports for the test splits of a configuration and score them, or score and "
        "compare reports that are there.",
        shipped="eval_configs",
    ),
    "doctor": Command(
        "what a training needs of this machine",
        _add_doctor,
        description="Tell, without loading weights, what a training would need: files that are missing, "
        "parameters, memory, arithmetic, and from trying this machine out for some seconds, time.",
        shipped="train_configs",
    ),
    "prepare": Command(
        "turn raw data into a folder to train on",
        _add_prepare,
        description="Turn raw data into a folder to train on, and prepare whatever else training needs.",
    ),
    "demo": Command("chat about a radiograph in the browser", _add_demo, shipped="eval_configs"),
    "convert": Command(
        "exchange models with Hugging Face's BLIP-2 and LLaVA",
        _add_convert,
        description="Exchange models with Hugging Face's BLIP-2 (Blip2ForConditionalGeneration) and LLaVA "
        "(LlavaForConditionalGeneration). "
        "docs/checkpoints.md describes both ways.",
    ),
    "merge-adapter": Command("add a language model's adapter to its weights", _add_merge_adapter),
    "tokenizers": Command("train the tokenizers of a small model on a data set's reports", _add_tokenizers),
}
