"""The commands of prepare.py. What they need is imported when they run, so that --help is quick."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from xraygpt.common.command_line import run_command

MIN_PHANTOM_SIZE = 64


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status, see `run_command`."""
    return run_command(_parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prepare.py", description="Prepare what a training needs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_pairs(commands)
    _add_phantoms(commands)
    _add_tokenizers(commands)
    _add_tiny_parts(commands)
    return parser


def _add_pairs(commands: Any) -> None:
    pairs = commands.add_parser(
        "pairs",
        help="convert a table of images and reports into a folder that the openi builder reads",
        description="Write OUT/filter_cap.json and OUT/image/ from the rows of a CSV file whose text_type is "
        "'report'. It needs the columns image (relative to the file), study_id, view, text_type, findings, "
        "impression and split (train, validate or test). De-identification marks stay as they are.",
    )
    pairs.add_argument("manifest", type=Path, metavar="MANIFEST.csv", help="the table")
    pairs.add_argument("output", type=Path, metavar="OUT", help="folder to write; has to be new or empty")
    pairs.add_argument("--view", help="keep only images of this view, e.g. Frontal")
    pairs.add_argument(
        "--force", action="store_true", help="write into a folder that is not empty, replacing files"
    )
    pairs.set_defaults(run=_pairs)


def _add_phantoms(commands: Any) -> None:
    phantoms = commands.add_parser("phantoms", help="draw a contact sheet of synthetic radiographs")
    phantoms.add_argument("output", type=Path, metavar="OUT.png", help="image file to write")
    phantoms.add_argument("--size", type=_phantom_size, default=256, help="side of each radiograph in pixels")
    phantoms.add_argument("--seed", type=int, default=0, help="another seed gives other patients")
    phantoms.set_defaults(run=_phantoms)


def _add_tokenizers(commands: Any) -> None:
    tokenizers = commands.add_parser(
        "tokenizers", help="train the tokenizers of a small model on a data set's reports"
    )
    tokenizers.add_argument("--cfg-path", required=True, help="YAML file of the training with the reports")
    tokenizers.add_argument(
        "--options", nargs="+", metavar="KEY=VALUE", help="settings in place of those in the file"
    )
    tokenizers.add_argument(
        "--output", type=Path, required=True, help="folder to write llama/ and bert/ into"
    )
    tokenizers.add_argument("--llama-vocab", type=int, default=768, help="pieces of the LLaMA tokenizer")
    tokenizers.add_argument("--bert-vocab", type=int, default=600, help="pieces of the BERT vocabulary")
    tokenizers.add_argument("--reports", type=int, default=4000, help="number of reports to learn from")
    tokenizers.set_defaults(run=_tokenizers)


def _add_tiny_parts(commands: Any) -> None:
    parts = commands.add_parser("tiny-parts", help="put the small pretrained parts that ship together")
    source = parts.add_mutually_exclusive_group(required=True)
    source.add_argument("--trained", type=Path, help="folder of the trainings in train_configs/tiny")
    source.add_argument("--projection", type=Path, help="folder of a quickstart, for its projection")
    parts.add_argument(
        "--output", type=Path, default=Path("xraygpt/weights/tiny"), help="folder of the shipped parts"
    )
    parts.set_defaults(run=_tiny_parts)


def _phantom_size(text: str) -> int:
    if not text.isdigit() or int(text) < MIN_PHANTOM_SIZE:
        raise argparse.ArgumentTypeError(f"a whole number, {MIN_PHANTOM_SIZE} or more, not '{text}'")
    return int(text)


def _pairs(args: argparse.Namespace) -> None:
    from xraygpt.preparation.pairs import convert_pairs

    print(convert_pairs(args.manifest, args.output, args.view, args.force).summary())
    print(f"written to {args.output}")


def _phantoms(args: argparse.Namespace) -> None:
    from xraygpt.common.errors import DataError
    from xraygpt.preparation.contact_sheet import contact_sheet

    args.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        contact_sheet(args.size, args.seed).save(args.output)
    except (OSError, ValueError) as error:  # a folder, or an ending that Pillow does not know
        raise DataError(f"{args.output}: cannot be written ({error})") from error
    print(f"written to {args.output}")


def _tokenizers(args: argparse.Namespace) -> None:
    from xraygpt.common.config import Config
    from xraygpt.preparation.texts import training_texts
    from xraygpt.preparation.tokenizers import train_bert_vocabulary, train_llama_tokenizer

    cfg = Config(args)
    texts = training_texts(cfg, args.reports)
    end_sym = cfg.model_cfg.end_sym
    llama = train_llama_tokenizer(texts, args.output / "llama", args.llama_vocab, symbols=[end_sym.strip()])
    bert = train_bert_vocabulary(texts, args.output / "bert", args.bert_vocab)
    print(f"{llama}\n{bert}\nlearnt from {len(texts)} texts")


def _tiny_parts(args: argparse.Namespace) -> None:
    from xraygpt.preparation.tiny_parts import add_projection, assemble_parts

    if args.trained is not None:
        files = assemble_parts(args.trained, args.output)
    else:
        files = add_projection(args.projection, args.output)
    print("\n".join(map(str, files)))
