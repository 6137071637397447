"""The language model: any decoder that transformers knows, read from a Hugging Face folder.

LLaMA and Vicuna are the usual choice. The folder holds ``config.json``, the weights (``.safetensors`` or
``.bin``, whole or in shards) and the tokenizer.
"""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from xraygpt.common.checkpoint import check_weight_file
from xraygpt.common.errors import CheckpointError, ConfigError, MissingFileError
from xraygpt.common.paths import HUB_PREFIX, require_file
from xraygpt.models.llama_tokenizer import LlamaSentencePieceTokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LLM_SOURCE = (
    "a Hugging Face folder with config.json, weights and tokenizer; for XrayGPT the Vicuna-7B fine-tuned on "
    "radiology text that its authors publish (https://github.com/mbzuai-oryx/XrayGPT)"
)
_COMPUTED = "rotary_emb.inv_freq"
_TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")


def require_llm(folder: str, where: str) -> Path:
    """The folder of a language model on this machine; ``hf://owner/repository`` is fetched.

    Raises:
        MissingFileError: no such folder, or no ``config.json`` in it.
    """
    if folder.startswith(HUB_PREFIX):
        return Path(snapshot_download(folder.removeprefix(HUB_PREFIX)))
    path = require_file(folder, what="the language model", source=LLM_SOURCE, where=where)
    if not (path / "config.json").is_file():
        raise MissingFileError(
            f"{path}: no config.json in it, so it is no language model; it has to be {LLM_SOURCE}"
        )
    return path


def load_llm(folder: Path, dtype: str = "auto") -> PreTrainedModel:
    """Read a decoder with its weights.

    Args:
        dtype: "fp32", "bf16", "fp16", or "auto": float32 without a GPU, bfloat16 on a GPU that has it, else
            float16.

    Raises:
        MissingFileError: no weights in the folder.
        CheckpointError: a weight file that cannot be read, or weights that do not fit ``config.json``.
    """
    _check_weight_files(folder)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=resolve_dtype(dtype), local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: the language model cannot be loaded: {error}") from error
    model: PreTrainedModel = loaded[0]
    report: dict[str, Any] = loaded[1]
    missing = sorted(report["missing_keys"])
    unexpected = sorted(name for name in report["unexpected_keys"] if not name.endswith(_COMPUTED))
    mismatched = sorted(str(name) for name in report["mismatched_keys"])
    if missing or unexpected or mismatched:
        raise CheckpointError(
            f"{folder}: the weights do not fit config.json: missing {missing[:8]}, "
            f"unexpected {unexpected[:8]}, of another size {mismatched[:8]}."
        )
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a language model; padding uses the end-of-text token, as in the reference.

    Raises:
        MissingFileError: no tokenizer in the folder.
        ConfigError: a tokenizer that cannot be read, or has no end-of-text token.
    """
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        # transformers would make an empty tokenizer of such a folder, without a word.
        raise MissingFileError(f"{folder}: no tokenizer in it (none of {', '.join(_TOKENIZER_FILES)})")
    if _is_sentencepiece_llama(folder):
        tokenizer: PreTrainedTokenizerBase = LlamaSentencePieceTokenizer.from_folder(folder)
    else:
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{folder}: its tokenizer cannot be read: {error}") from error
    if tokenizer.eos_token is None:
        raise ConfigError(
            f"{folder}: the tokenizer has no end-of-text token; name it in tokenizer_config.json."
        )
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def embedding_table(llm: PreTrainedModel) -> nn.Embedding:
    """The input embeddings of a language model."""
    table = llm.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    return table


def check_vocabulary(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise CheckpointError if the tokenizer knows ids that the language model has no embedding for."""
    rows = embedding_table(llm).num_embeddings
    if len(tokenizer) > rows:
        raise CheckpointError(
            f"the tokenizer has {len(tokenizer)} ids, the language model embeddings for {rows}: "
            "they do not belong together."
        )


def resolve_dtype(name: str) -> torch.dtype:
    """Number format in which frozen language-model weights are held; see `load_llm`."""
    if name != "auto":
        return DTYPES[name]
    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _is_sentencepiece_llama(folder: Path) -> bool:
    if not (folder / "tokenizer.model").is_file():
        return False
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    return str(config.get("tokenizer_class", "LlamaTokenizer")).startswith(
        ("LlamaTokenizer", "LlamaSentencePiece")
    )


def _check_weight_files(folder: Path) -> None:
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if not files:
        raise MissingFileError(
            f"{folder}: no weights (*.safetensors or pytorch_model*.bin) in it; {LLM_SOURCE}"
        )
    for file in files:
        check_weight_file(file)
