"""What a small model is made from: its tokenizers, and the pretrained parts that ship with the package.

The tokenizers learn from a data set's reports: a SentencePiece one in the form of LLaMA's (byte-pair encoding
with byte fallback), and a WordPiece vocabulary in the form of BERT's, for the text half of the Q-Former.

The language model ships as a Hugging Face folder, vision encoder and Q-Former as files under the reference's
key names, all in float16. What trained them is kept beside them: log, configuration, figures, hashes.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import BertWordPieceTokenizer

from xraygpt.common.checkpoint import load_weights, save_checkpoint
from xraygpt.common.errors import CheckpointError, DataError, MissingFileError
from xraygpt.common.files import file_sha256
from xraygpt.common.registry import registry
from xraygpt.common.run_record import write_json
from xraygpt.conversation.messages import IMAGE_PLACEHOLDER
from xraygpt.datasets.builders import BaseDatasetBuilder
from xraygpt.models.prompts import read_prompts

STEPS = {
    "llm": "train_configs/tiny/1_llm.yaml",
    "vit": "train_configs/tiny/2_vit.yaml",
    "stage1": "train_configs/tiny/3_stage1.yaml",
    "stage2": "train_configs/tiny/4_stage2.yaml",
}
"""Folder of each training, in order, and the file that describes it."""
PROJECTION_STEPS = {
    "alignment": "train_configs/quickstart/alignment.yaml",
    "finetune": "train_configs/quickstart/finetune.yaml",
}
"""The same for the quickstart, which trains the projection."""
LLM_FILES = ("config.json", "tokenizer.model", "tokenizer_config.json", "model.safetensors")
PARTS = {
    **{f"llama/{name}": f"llm/{name}" for name in LLM_FILES},
    "vit.pth": "vit/vit.pth",
    "qformer.pth": "stage2/qformer.pth",
    "bert/vocab.txt": "tokenizers/bert/vocab.txt",
}
"""File that ships -> the file of a training that it is made from."""
PROJECTION = {"projection.pth": "finetune/projection.pth"}
SIZE_LIMIT = 12_000_000
"""Most bytes that the parts may have together."""
PRINTABLE_ASCII = "".join(map(chr, range(33, 127)))


def assemble_parts(trained: Path, target: Path) -> list[Path]:
    """Write the parts, except for the projection, which the quickstart trains on top of them.

    Args:
        trained: folder with one sub-folder for each step of ``STEPS``, and ``tokenizers``.
        target: folder of the package's weights; replaced file by file.

    Returns:
        The files that are there now.

    Raises:
        MissingFileError: a step has not been run, or not to its end; all files that it lacks are named.
        CheckpointError: the parts are larger than they may be.
    """
    _require(trained, PARTS, STEPS)
    for name, source in PARTS.items():
        part = target / name
        part.parent.mkdir(parents=True, exist_ok=True)
        if part.suffix == ".safetensors":
            save_file(_half_precision(trained / source), part, metadata={"format": "pt"})
        elif part.suffix == ".pth":
            save_checkpoint(part, {"model": _half_precision(trained / source)})
        else:
            shutil.copyfile(trained / source, part)
    return _write_record(trained, target, STEPS)


def add_projection(trained: Path, target: Path) -> list[Path]:
    """Write the projection of a finished quickstart (folder ``output/quickstart``) beside the other parts."""
    _require(trained, PROJECTION, PROJECTION_STEPS)
    target.mkdir(parents=True, exist_ok=True)
    for name, source in PROJECTION.items():
        shutil.copyfile(trained / source, target / name)
    return _write_record(trained, target, PROJECTION_STEPS)


def _require(trained: Path, parts: Mapping[str, str], steps: Mapping[str, str]) -> None:
    wanted = [trained / name for name in (*parts.values(), *(f"{step}/metrics.jsonl" for step in steps))]
    missing = [str(file) for file in (*wanted, *map(Path, steps.values())) if not file.is_file()]
    if missing:
        raise MissingFileError(
            f"not there yet: {', '.join(missing)}; run the trainings that write them first (make tiny)"
        )


def _half_precision(path: Path) -> dict[str, torch.Tensor]:
    state = load_weights(path)
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def _write_record(trained: Path, target: Path, steps: Mapping[str, str]) -> list[Path]:
    """Write ``training/``: logs and configurations of `steps`, and ``record.json``; return what is there.

    The record holds size and SHA-256 of every part, and what each training came to.
    """
    training = target / "training"
    training.mkdir(exist_ok=True)
    for name, config in steps.items():
        shutil.copyfile(trained / name / "metrics.jsonl", training / f"{name}.jsonl")
        shutil.copyfile(config, training / f"{name}.yaml")
    files = sorted(p for p in target.rglob("*") if p.is_file() and not p.is_relative_to(training))
    total = sum(path.stat().st_size for path in files)
    if total > SIZE_LIMIT:
        raise CheckpointError(
            f"{target}: the parts have {total} bytes together, and {SIZE_LIMIT} at most may ship: train "
            "smaller ones"
        )
    record = {
        "data": "synthetic radiographs and reports of this project only; nothing comes from patients",
        "files": {
            str(path.relative_to(target)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in files
        },
        "trainings": {log.stem: _summary(log) for log in sorted(training.glob("*.jsonl"))},
    }
    write_json(training / "record.json", record)
    return [*files, training / "record.json"]


def _summary(log: Path) -> dict[str, Any]:
    """Return steps, seconds and last validation of one training, from its metrics."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = [row for row in rows if row["event"] == "train"]
    scored = [row for row in rows if row["event"] not in ("train", "interval")] or [{}]
    return {
        "steps": len(steps),
        "seconds": round(sum({row["epoch"]: row["seconds"] for row in steps}.values()), 1),
        "last_loss": steps[-1]["loss"],
        "validation": {key: value for key, value in scored[-1].items() if not isinstance(value, dict)},
    }


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
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "tokenizer_config.json", config)
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


def training_texts(cfg: Any, reports: int) -> list[str]:
    """Reports of the training splits, what stands in for their images, and the prompts around them.

    Args:
        cfg: `Config` of a text-only training.
        reports: most reports taken from each data set.

    Raises:
        DataError: a data set has no split "train".
    """
    template = cfg.model_cfg.prompt_template
    prompts = read_prompts(cfg.model_cfg.prompt_path, template)
    pieces = [piece for prompt in prompts for piece in prompt.split(IMAGE_PLACEHOLDER)]
    texts: list[str] = []
    for name, dataset_cfg in cfg.datasets_cfg.items():
        splits = registry.get_builder_class(name, BaseDatasetBuilder)(dataset_cfg).build_datasets()
        if "train" not in splits:
            raise DataError(
                f"datasets.{name}: no split train to learn from, only {', '.join(splits) or 'none at all'}"
            )
        dataset = splits["train"]
        for number in range(min(len(dataset), reports)):
            sample = dataset[number]
            texts += [sample["caption"], sample.get("image_text", ""), pieces[number % len(pieces)]]
    return [text for text in texts if text]
