"""The commands of prepare.py that make what a tiny model is put together from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_commands(commands: Any) -> None:
    """Add ``tokenizers`` and ``tiny-parts`` to the parser of prepare.py."""
    add_tokenizer_arguments(
        commands.add_parser(
            "tokenizers", help="train the tokenizers of a small model on a data set's reports"
        )
    )
    _add_tiny_parts(commands)


def add_tokenizer_arguments(tokenizers: argparse.ArgumentParser) -> None:
    """Add the arguments of ``tokenizers`` and what it runs."""
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


def _tokenizers(args: argparse.Namespace) -> None:
    from xraygpt.common.config import Config
    from xraygpt.preparation.tiny_model import train_bert_vocabulary, train_llama_tokenizer, training_texts

    cfg = Config(args)
    texts = training_texts(cfg, args.reports)
    end_sym = cfg.model_cfg.end_sym
    llama = train_llama_tokenizer(texts, args.output / "llama", args.llama_vocab, symbols=[end_sym.strip()])
    bert = train_bert_vocabulary(texts, args.output / "bert", args.bert_vocab)
    print(f"{llama}\n{bert}\nlearnt from {len(texts)} texts")


def _tiny_parts(args: argparse.Namespace) -> None:
    from xraygpt.preparation.tiny_model import add_projection, assemble_parts

    if args.trained is not None:
        files = assemble_parts(args.trained, args.output)
    else:
        files = add_projection(args.projection, args.output)
    print("\n".join(map(str, files)))
