"""The commands of ``xraygpt convert``; heavy imports wait until one runs, so --help is quick."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from xraygpt.common.command_line import Parser, parse_and_run


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of ``python -m xraygpt.convert``; return the exit status, see `run_command`."""
    parser = Parser(prog="python -m xraygpt.convert")
    add_commands(parser)
    return parse_and_run(parser, argv)


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add ``to-hf`` and ``from-hf``."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    to_hf = commands.add_parser(
        "to-hf",
        help="write a trained mini_gpt4 as a folder that transformers loads",
        description="Write the model of a configuration (arch mini_gpt4, with any decoder as its language "
        "model) and its processor as a folder for Blip2ForConditionalGeneration (bridge qformer) or "
        "LlavaForConditionalGeneration (bridge mlp), with a model card that says how the prompt has to look; "
        "then load the folder and compare.",
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

    from_hf = commands.add_parser(
        "from-hf",
        help="read the parts of a model from such a folder, or from a public BLIP-2 or LLaVA",
        description="Write parts of a folder as a checkpoint of this project (BLIP-2: vision encoder, "
        "Q-Former with its queries and, where the text model is a decoder, projection; LLaVA: projector), "
        "and print the sections model and preprocess of a configuration that reads it.",
    )
    from_hf.add_argument("folder", type=Path, metavar="FOLDER", help="folder with config.json and weights")
    from_hf.add_argument(
        "file", type=Path, metavar="OUT_FILE", help="checkpoint to write (.pth); has to be new"
    )
    for option, text in (
        (
            "--llm-folder",
            "write the language model, a decoder, with its tokenizer here, for model.llama_model",
        ),
        ("--vision-folder", "write LLaVA's vision encoder here, for model.vit_model: hf:VISION_FOLDER"),
    ):
        from_hf.add_argument(option, type=Path, metavar=option[2:].replace("-", "_").upper(), help=text)
    from_hf.set_defaults(run=_from_hf)


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``xraygpt merge-adapter``."""
    parser.add_argument("base", metavar="LLM_FOLDER", help="Hugging Face folder of the language model")
    parser.add_argument("adapter", metavar="ADAPTER_FOLDER", help="folder of peft's with its adapter")
    parser.add_argument("folder", type=Path, metavar="OUT_FOLDER", help="has to be new or empty")
    parser.set_defaults(run=_merge_adapter)


def _merge_adapter(args: argparse.Namespace) -> None:
    from xraygpt.convert.merge_adapter import merge

    merge(args.base, args.adapter, args.folder)
    print(f"{args.folder}: written; name it in model.llama_model, and leave model.adapter out")


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(KB|MB|GB)", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 500MB or 2GB")
    return text


def _to_hf(args: argparse.Namespace) -> None:
    from xraygpt.convert.to_hf import export_configuration

    difference = export_configuration(args, args.folder, args.max_shard_size)
    print(
        f"{args.folder}: written. What the language model gets of an image differs by "
        f"{difference.embeddings:.1e}, the logits by {difference.logits:.1e} of the largest."
    )


def _from_hf(args: argparse.Namespace) -> None:
    from xraygpt.convert.from_hf import import_folder

    print(import_folder(args.folder, args.file, args.llm_folder, args.vision_folder), end="")
