"""The language model: any decoder that transformers knows, read from a Hugging Face folder.

LLaMA and Vicuna are the usual choice. The folder holds ``config.json``, the weights (``.safetensors`` or
``.bin``, whole or in shards) and the tokenizer.
"""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from xraygpt.common.checkpoint import check_weight_file
from xraygpt.common.errors import CheckpointError, ConfigError, MissingFileError
from xraygpt.common.paths import HUB_PREFIX, require_file
from xraygpt.common.precision import frozen_dtype
from xraygpt.models.llama_tokenizer import LlamaSentencePieceTokenizer, read_settings

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
        return _fetched(folder, where)
    path = require_file(folder, what="the language model", source=LLM_SOURCE, where=where)
    if not (path / "config.json").is_file():
        raise MissingFileError(
            f"{path}: no config.json in it, so it is no language model; it has to be {LLM_SOURCE}"
        )
    return path


def check_llm(folder: str, where: str) -> None:
    """Raise MissingFileError unless a local folder holds a language model, its weights and its tokenizer.

    What lies on the hub is not looked for.
    """
    if not folder.startswith(HUB_PREFIX):
        path = require_llm(folder, where)
        _weight_files(path)
        check_tokenizer(path)


def load_llm(folder: Path, precision: str = "auto", device: str | torch.device = "cpu") -> PreTrainedModel:
    """Read a decoder with its weights, onto the CPU.

    Args:
        precision: number format of its weights: "fp32", "bf16", "fp16", or "auto", see `frozen_dtype`.
        device: where it is going to run, on which "auto" depends.

    Raises:
        MissingFileError: no weights in the folder.
        CheckpointError: a weight file that cannot be read, or weights that do not fit ``config.json``.
    """
    for file in _weight_files(folder):
        check_weight_file(file)
    dtype = frozen_dtype(precision, device)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # e.g. SafetensorError, which derives from Exception itself
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
        CheckpointError: a tokenizer that cannot be read.
        ConfigError: it has no end-of-text token.
    """
    check_tokenizer(folder)
    if _is_sentencepiece_llama(folder):
        tokenizer: PreTrainedTokenizerBase = LlamaSentencePieceTokenizer.from_folder(folder)
    else:
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # the readers of the many formats share no base class of their errors
            raise CheckpointError(f"{folder}: its tokenizer cannot be read: {error}") from error
    if tokenizer.eos_token is None:
        raise ConfigError(
            f"{folder}: the tokenizer has no end-of-text token; name it in tokenizer_config.json."
        )
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_tokenizer(folder: Path) -> None:
    """Raise MissingFileError unless there is a tokenizer in the folder."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        # transformers would make an empty tokenizer of such a folder, without a word.
        raise MissingFileError(f"{folder}: no tokenizer in it (none of {', '.join(_TOKENIZER_FILES)})")


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


def _is_sentencepiece_llama(folder: Path) -> bool:
    if not (folder / "tokenizer.model").is_file():
        return False
    config = read_settings(folder / "tokenizer_config.json")
    return str(config.get("tokenizer_class", "LlamaTokenizer")).startswith(
        ("LlamaTokenizer", "LlamaSentencePiece")
    )


def _fetched(name: str, where: str) -> Path:
    try:
        return Path(snapshot_download(name.removeprefix(HUB_PREFIX)))
    except Exception as error:  # network, name and access errors share no base class
        raise MissingFileError(
            f"could not fetch {name} ({where}): {error}\n"
            "  look at the name, or download the folder by hand and name it instead"
        ) from error


def _weight_files(folder: Path) -> list[Path]:
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if not files:
        raise MissingFileError(
            f"{folder}: no weights (*.safetensors or pytorch_model*.bin) in it; {LLM_SOURCE}"
        )
    return files
