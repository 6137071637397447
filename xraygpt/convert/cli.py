"""The commands of ``xraygpt convert``; heavy imports wait until one runs, so --help is quick."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xraygpt.common.command_line import Parser, parse_and_run


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of ``python -m xraygpt.convert``; return the exit status, see `run_command`."""
    parser = Parser(prog="python -m xraygpt.convert")
    add_commands(parser)
    return parse_and_run(parser, argv)


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add ``to-hf`` and ``from-hf``."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_to_hf(commands)
    _add_from_hf(commands)


def _add_to_hf(commands: Any) -> None:
    to_hf = commands.add_parser(
        "to-hf",
        help="write a trained mini_gpt4 as a folder that transformers loads",
        description="Write the model of a configuration (arch mini_gpt4, with any decoder as its language "
        "model) as a folder for Blip2ForConditionalGeneration.from_pretrained and "
        "Blip2Processor.from_pretrained, with a model card that says how the prompt has to look.",
    )
    to_hf.add_argument("--cfg-path", required=True, help="YAML file whose section model names the weights")
    to_hf.add_argument(
        "--options",
        nargs="+",
        metavar="KEY=VALUE",
        help="settings in place of those in the file, e.g. model.ckpt=checkpoint_best.pth",
    )
    to_hf.add_argument("folder", type=Path, metavar="OUT_FOLDER", help="has to be new or empty")
    to_hf.add_argument(
        "--max-shard-size",
        type=_size,
        default="5GB",
        help="largest file of weights, e.g. 2GB (default: %(default)s)",
    )
    to_hf.set_defaults(run=_to_hf)


def _add_from_hf(commands: Any) -> None:
    from_hf = commands.add_parser(
        "from-hf",
        help="read vision encoder, Q-Former and projection from such a folder, or from a public BLIP-2",
        description="Write the vision encoder, the Q-Former with its queries and, where the text model is a "
        "decoder, the projection of a BLIP-2 folder as a checkpoint of this project, and print the "
        "sections model and preprocess of a configuration that reads it.",
    )
    from_hf.add_argument("folder", type=Path, metavar="FOLDER", help="folder with config.json and weights")
    from_hf.add_argument(
        "file", type=Path, metavar="OUT_FILE", help="checkpoint to write (.pth); has to be new"
    )
    from_hf.add_argument(
        "--llm-folder",
        type=Path,
        metavar="LLM_FOLDER",
        help="write the language model, a decoder, with its tokenizer here, for model.llama_model",
    )
    from_hf.set_defaults(run=_from_hf)


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(KB|MB|GB)", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 500MB or 2GB")
    return text


def _to_hf(args: argparse.Namespace) -> None:
    from xraygpt.convert.to_hf import export_configuration

    difference = export_configuration(args, args.folder, args.max_shard_size)
    print(f"{args.folder}: written. What the language model gets of an image differs by {difference:.1e}.")


def _from_hf(args: argparse.Namespace) -> None:
    from xraygpt.convert.from_hf import import_blip2

    print(import_blip2(args.folder, args.file, args.llm_folder), end="")
