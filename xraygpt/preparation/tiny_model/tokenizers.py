"""Train the two tokenizers of a small model from report text.

A SentencePiece one in the form of LLaMA's (byte-pair encoding with byte fallback), for the language model,
and a WordPiece vocabulary in the form of BERT's, for the text half of the Q-Former.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import sentencepiece
from tokenizers import BertWordPieceTokenizer

PRINTABLE_ASCII = "".join(map(chr, range(33, 127)))


def train_llama_tokenizer(
    texts: Sequence[str], folder: Path, vocab_size: int, symbols: Sequence[str] = ()
) -> Path:
    """Write ``tokenizer.model`` and ``tokenizer_config.json``, as a LLaMA folder has them.

    Args:
        texts: what to learn from.
        vocab_size: number of pieces, of which 259 are special tokens and bytes.
        symbols: strings that are always one piece of their own, such as ``###``.

    Returns:
        The path of ``tokenizer.model``.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        required_chars=PRINTABLE_ASCII,
        user_defined_symbols=list(symbols),
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
    )
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    path = folder / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


def train_bert_vocabulary(texts: Sequence[str], folder: Path, vocab_size: int) -> Path:
    """Write ``vocab.txt``, a lower-case WordPiece vocabulary; returns its path."""
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(
        texts,
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=list(PRINTABLE_ASCII),
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_model(str(folder))
    return folder / "vocab.txt"
