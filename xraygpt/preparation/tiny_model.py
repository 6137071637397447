"""What a small model is made from: its tokenizers, and the pretrained parts that ship with the package.

The tokenizers learn from a data set's reports: a SentencePiece one in the form of LLaMA's (byte-pair encoding
with byte fallback), for the language model, and a WordPiece vocabulary in the form of BERT's, for the text
half of the Q-Former.

Of the trainings that made the parts, the language model becomes a Hugging Face folder, vision encoder and
Q-Former files under the reference's key names, all in float16. What trained them is kept beside them: log,
configuration, figures, hashes.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import BertWordPieceTokenizer
from torch import Tensor

from xraygpt.common.checkpoint import load_weights, save_checkpoint
from xraygpt.common.errors import CheckpointError, DataError, MissingFileError
from xraygpt.common.files import file_sha256
from xraygpt.common.registry import registry
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
SIZE_LIMIT = 12_000_000
"""Most bytes that the parts may have together."""
PRINTABLE_ASCII = "".join(map(chr, range(33, 127)))


def assemble_parts(trained: Path, target: Path) -> list[Path]:
    """Write the parts into ``target``, except for the projection, which the quickstart trains on top of them.

    Args:
        trained: folder with one sub-folder for each step of ``STEPS``, and ``tokenizers``.
        target: folder of the package's weights; replaced file by file.

    Returns:
        The files written.

    Raises:
        MissingFileError: a step has not been run, or not to its end; all files that it lacks are named.
        CheckpointError: the parts are larger than they may be.
    """
    weights = [*(f"llm/{name}" for name in LLM_FILES), "vit/vit.pth", "stage2/qformer.pth"]
    _require(trained, [*weights, "tokenizers/bert/vocab.txt"], STEPS)
    target.mkdir(parents=True, exist_ok=True)
    _copy_llama(trained / "llm", target / "llama")
    (target / "bert").mkdir(exist_ok=True)
    shutil.copyfile(trained / "tokenizers" / "bert" / "vocab.txt", target / "bert" / "vocab.txt")
    for step, name in (("vit", "vit.pth"), ("stage2", "qformer.pth")):
        save_checkpoint(target / name, {"model": _half(load_weights(trained / step / name))})
    _copy_logs(trained, target / "training", STEPS)
    return write_record(target)


def add_projection(trained: Path, target: Path) -> list[Path]:
    """Write the projection of a finished quickstart (folder ``output/quickstart``) beside the other parts."""
    _require(trained, ["finetune/projection.pth"], PROJECTION_STEPS)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(trained / "finetune" / "projection.pth", target / "projection.pth")
    _copy_logs(trained, target / "training", PROJECTION_STEPS)
    return write_record(target)


def write_record(target: Path) -> list[Path]:
    """Write ``training/record.json``: size and SHA-256 of every part, and what each training came to.

    Raises:
        CheckpointError: the parts are larger than they may be.
    """
    files = sorted(
        path
        for path in target.rglob("*")
        if path.is_file() and "training" not in path.relative_to(target).parts
    )
    total = sum(path.stat().st_size for path in files)
    if total > SIZE_LIMIT:
        raise CheckpointError(
            f"{target}: the parts have {total} bytes together, and {SIZE_LIMIT} at most may ship: train "
            "smaller ones"
        )
    logs = sorted((target / "training").glob("*.jsonl"))
    record = {
        "data": "synthetic radiographs and reports of this project only; nothing comes from patients",
        "files": {
            str(path.relative_to(target)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in files
        },
        "trainings": {log.stem: _summary(log) for log in logs},
    }
    path = target / "training" / "record.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return [*files, path]


def _copy_llama(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name in LLM_FILES[:-1]:
        shutil.copyfile(source / name, target / name)
    save_file(
        _half(load_weights(source / "model.safetensors")),
        target / "model.safetensors",
        metadata={"format": "pt"},
    )


def _half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key: value.to(torch.float16) if value.is_floating_point() else value for key, value in state.items()
    }


def _copy_logs(trained: Path, target: Path, steps: dict[str, str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name, config in steps.items():
        shutil.copyfile(trained / name / "metrics.jsonl", target / f"{name}.jsonl")
        shutil.copyfile(config, target / f"{name}.yaml")


def _summary(log: Path) -> dict[str, Any]:
    """Steps, seconds and last validation of one training, from its metrics."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = [row for row in rows if row["event"] == "train"]
    scored = [row for row in rows if row["event"] != "train"]
    return {
        "steps": len(steps),
        "seconds": round(sum(_epoch_seconds(steps)), 1),
        "last_loss": steps[-1]["loss"],
        "validation": {key: value for key, value in scored[-1].items() if not isinstance(value, dict)}
        if scored
        else {},
    }


def _epoch_seconds(steps: list[dict[str, Any]]) -> list[float]:
    last = {row["epoch"]: row["seconds"] for row in steps}
    return list(last.values())


def _require(trained: Path, weights: Iterable[str], steps: Mapping[str, str]) -> None:
    wanted = [trained / name for name in (*weights, *(f"{step}/metrics.jsonl" for step in steps))]
    wanted += [Path(config) for config in steps.values()]
    missing = [str(file) for file in wanted if not file.is_file()]
    if missing:
        raise MissingFileError(
            f"not there yet: {', '.join(missing)}; run the trainings that write them first (make tiny)"
        )


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


def training_texts(cfg: Any, reports: int) -> list[str]:
    """Reports of the training splits, what stands in for their images, and the prompts around them.

    Args:
        cfg: `Config` of a text-only training.
        reports: most reports taken from each data set.

    Raises:
        DataError: a data set has no split "train".
    """
    template = cfg.model_cfg.prompt_template
    pieces = [
        piece
        for prompt in read_prompts(cfg.model_cfg.prompt_path, template)
        for piece in prompt.split(IMAGE_PLACEHOLDER)
    ]
    texts: list[str] = []
    for name, dataset_cfg in cfg.datasets_cfg.items():
        splits = registry.get_builder_class(name, BaseDatasetBuilder)(dataset_cfg).build_datasets()
        if "train" not in splits:
            raise DataError(
                f"datasets.{name}: no split train to learn from, only {', '.join(splits) or 'none at all'}"
            )
        dataset = splits["train"]
        for number, sample in enumerate(islice((dataset[i] for i in range(len(dataset))), reports)):
            texts += [sample["caption"], sample.get("image_text", ""), pieces[number % len(pieces)]]
    return [text for text in texts if text]
