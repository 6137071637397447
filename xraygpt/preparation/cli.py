"""The commands of prepare.py."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status, 2 after an error that the user can mend."""
    args = _parser().parse_args(argv)
    from xraygpt.common.errors import XrayGPTError

    try:
        args.run(args)
    except XrayGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prepare.py", description="Prepare what a training needs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    tokenizers = commands.add_parser("tokenizers", help="train the tokenizers of a small model on a data set's reports")
    tokenizers.add_argument("--cfg-path", required=True, help="YAML file of the training whose reports to learn from")
    tokenizers.add_argument("--options", nargs="+", metavar="KEY=VALUE", help="settings in place of those in the file")
    tokenizers.add_argument("--output", type=Path, required=True, help="folder to write llama/ and bert/ into")
    tokenizers.add_argument("--llama-vocab", type=int, default=768, help="pieces of the LLaMA tokenizer")
    tokenizers.add_argument("--bert-vocab", type=int, default=600, help="pieces of the BERT vocabulary")
    tokenizers.add_argument("--reports", type=int, default=4000, help="number of reports to learn from")
    tokenizers.set_defaults(run=_tokenizers)
    return parser


def _tokenizers(args: argparse.Namespace) -> None:
    # Imported here so that --help does not wait for PyTorch.
    from xraygpt.common.config import Config
    from xraygpt.preparation.texts import training_texts
    from xraygpt.preparation.tokenizers import train_bert_vocabulary, train_llama_tokenizer

    cfg = Config(args)
    texts = training_texts(cfg, args.reports)
    end_sym = cfg.model_cfg.end_sym
    llama = train_llama_tokenizer(texts, args.output / "llama", args.llama_vocab, symbols=[end_sym.strip()])
    bert = train_bert_vocabulary(texts, args.output / "bert", args.bert_vocab)
    print(f"{llama}\n{bert}\nlearnt from {len(texts)} texts")
