"""The language model: any decoder that transformers knows, read from a Hugging Face folder.

LLaMA and Vicuna are the usual choice. The folder holds ``config.json``, the weights (``.safetensors`` or
``.bin``, whole or in shards) and the tokenizer. Code in a folder is never run, and of its
``generation_config.json`` only the end-of-text ids are taken: how to generate is the configuration's to say.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from xraygpt.common.checkpoint import check_tensor, check_weight_file, refuse_adapter, weight_files
from xraygpt.common.errors import CheckpointError, ConfigError, MissingFileError
from xraygpt.common.paths import HUB_PREFIX, require_file
from xraygpt.common.precision import frozen_dtype
from xraygpt.models.hf_folder import fetched, from_folder, read_settings, refuse_code
from xraygpt.models.llama_tokenizer import LlamaSentencePieceTokenizer, padding_without_row

LLM_SOURCE = (
    "a Hugging Face folder with config.json, weights and tokenizer; for XrayGPT the Vicuna-7B fine-tuned on "
    "radiology text that its authors publish (https://github.com/mbzuai-oryx/XrayGPT)"
)
_COMPUTED = "rotary_emb.inv_freq"
_TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")
_TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".vocab", ".bpe", ".tiktoken")
_NOT_TOKENIZERS = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)


def require_llm(folder: str, where: str) -> Path:
    """The folder of a language model on this machine; ``hf://owner/repository`` is fetched.

    Raises:
        MissingFileError: no such folder, or no ``config.json`` in it.
        CheckpointError: an adapter.
    """
    if folder.startswith(HUB_PREFIX):
        return fetched(folder, where)
    path = require_file(folder, what="the language model", source=LLM_SOURCE, where=where)
    refuse_adapter(path)
    if not (path / "config.json").is_file():
        raise MissingFileError(
            f"{path}: no config.json in it, so it is no language model; it has to be {LLM_SOURCE}"
        )
    return path


def check_llm(folder: str, where: str) -> None:
    """Raise MissingFileError unless a local folder holds a language model, its weights and its tokenizer.

    What lies on the hub is not looked for. Raises CheckpointError for a folder that needs its own code.
    """
    if not folder.startswith(HUB_PREFIX):
        path = require_llm(folder, where)
        refuse_code(path)
        _weight_files(path)
        check_tokenizer(path)


def load_llm(folder: Path, precision: str = "auto", device: str | torch.device = "cpu") -> PreTrainedModel:
    """Read a decoder with its weights, onto the CPU.

    Args:
        precision: number format of its weights: "fp32", "bf16", "fp16", or "auto", see `frozen_dtype`.
        device: where it is going to run, on which "auto" depends.

    Raises:
        MissingFileError: no weights in the folder.
        CheckpointError: a weight file that cannot be read, weights that are not finite numbers or do not fit
            ``config.json``, an adapter, or a folder that needs its own code.
    """
    refuse_adapter(folder)
    for file in _weight_files(folder):
        check_weight_file(file)
    model: PreTrainedModel
    report: dict[str, Any]
    model, report = from_folder(
        AutoModelForCausalLM,
        folder,
        "the language model",
        dtype=frozen_dtype(precision, device),
        output_loading_info=True,
        # Else it is read from the folder, and what is in it would change or forbid what a user asks for.
        generation_config=GenerationConfig(),
    )
    missing = sorted(report["missing_keys"])
    unexpected = sorted(name for name in report["unexpected_keys"] if not name.endswith(_COMPUTED))
    mismatched = sorted(str(name) for name in report["mismatched_keys"])
    if missing or unexpected or mismatched:
        raise CheckpointError(
            f"{folder}: the weights do not fit config.json: missing {missing[:8]}, "
            f"unexpected {unexpected[:8]}, of another size {mismatched[:8]}."
        )
    places = _places(folder)
    for name, weight in model.named_parameters():
        check_tensor(name, weight, folder / places.get(name, places.get("", "")))
    model.generation_config = _only_end_tokens(model, folder)
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a language model; padding uses the end-of-text token, as in the reference.

    Raises:
        MissingFileError: no tokenizer in the folder.
        CheckpointError: a tokenizer that cannot be read.
        ConfigError: it has no end-of-text token.
    """
    check_tokenizer(folder)
    tokenizer: PreTrainedTokenizerBase
    if _is_sentencepiece_llama(folder):
        refuse_code(folder)
        tokenizer = LlamaSentencePieceTokenizer.from_folder(folder)
    else:
        tokenizer = from_folder(AutoTokenizer, folder, "its tokenizer")
        added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
        padding = padding_without_row(folder, added, tokenizer.pad_token)
        if padding and tokenizer.is_fast:
            state = json.loads(tokenizer.backend_tokenizer.to_str())
            state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] not in padding]
            tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    if tokenizer.eos_token is None:
        raise ConfigError(
            f"{folder}: the tokenizer has no end-of-text token; name it in tokenizer_config.json."
        )
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def copy_tokenizer(folder: Path, target: Path) -> None:
    """Copy the files of the tokenizer in `folder`, of whatever kind, and its chat templates, unchanged."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(folder.iterdir()):
        other = file.name in _NOT_TOKENIZERS or file.name.endswith(".index.json")
        if file.is_file() and file.suffix in _TEXT_SUFFIXES and not other:
            shutil.copy2(file, target / file.name)


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
    """Raise CheckpointError if the tokenizer knows ids that the language model has no embedding for.

    More embeddings than ids are usual: tables are rounded up to a size that computes well.
    """
    rows = embedding_table(llm).num_embeddings
    without = {token for token, number in tokenizer.get_vocab().items() if number >= rows}
    if without:
        raise CheckpointError(
            f"the tokenizer has {len(tokenizer)} ids, the language model embeddings for {rows}: "
            f"they do not belong together (no embedding for {', '.join(sorted(without)[:8])})."
        )


def end_token_ids(
    llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str] = ()
) -> list[int]:
    """The ids that end a text: the tokenizer's end of text, those that the folder of the language model
    names, and the special tokens in `stops`.

    Special tokens, such as the ``<|eot_id|>`` of Llama 3, do not show in the text, in which stop strings are
    looked for.
    """
    named = llm.generation_config.eos_token_id if llm.generation_config is not None else None
    ids = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
    added = tokenizer.added_tokens_decoder.items()
    special = {number for number, token in added if token.special} - {tokenizer.unk_token_id}
    for stop in stops:
        ids += [number for number in tokenizer(stop, add_special_tokens=False).input_ids if number in special]
    return [number for number in dict.fromkeys(ids) if number is not None]


def max_positions(llm: PreTrainedModel) -> int:
    """Most positions, prompt and text together, that a language model is of use for.

    Learned positions end there. With rotary ones a text of any length can be computed, but what is written
    beyond the positions of the training is of no use. The settings "linear" and "dynamic" stretch the
    positions that the configuration states; the others state the stretched ones.
    """
    positions = getattr(llm.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return 1 << 30  # e.g. ALiBi, which has no limit
    rope = getattr(llm.config, "rope_parameters", None) or {}
    stretched = rope.get("rope_type") in ("linear", "dynamic")
    return int(positions * rope.get("factor", 1.0)) if stretched else positions


def check_positions(llm: PreTrainedModel, before: int, new: int, setting: str) -> None:
    """Raise ConfigError if a prompt of `before` positions leaves no room for `new` more.

    Args:
        setting: the key that states `new`, for the message.
    """
    limit = max_positions(llm)
    if before + new > limit:
        raise ConfigError(
            f"{setting} is {new} and the prompt with its image takes {before} positions: {before + new} "
            f"together, of which the language model has {limit}. Set {setting} to {limit - before} at most"
            + ("" if limit > before else ", with a shorter prompt")
        )


def _is_sentencepiece_llama(folder: Path) -> bool:
    if not (folder / "tokenizer.model").is_file():
        return False
    config = read_settings(folder / "tokenizer_config.json")
    return str(config.get("tokenizer_class", "LlamaTokenizer")).startswith(
        ("LlamaTokenizer", "LlamaSentencePiece")
    )


def _weight_files(folder: Path) -> list[Path]:
    try:
        return weight_files(folder)
    except MissingFileError as error:
        raise MissingFileError(f"{error}; it has to be {LLM_SOURCE}") from error


def _places(folder: Path) -> Mapping[str, str]:
    """Parameter -> name of the weight file that holds it, as far as known; "" -> the only one there is."""
    files = weight_files(folder)
    if len(files) == 1:
        return {"": files[0].name}
    maps = [read_settings(index).get("weight_map", {}) for index in sorted(folder.glob("*.index.json"))]
    return {name: file for places in maps for name, file in places.items()}


def _only_end_tokens(llm: PreTrainedModel, folder: Path) -> GenerationConfig:
    """The generation settings of a folder, all of them left out but the ids that end a text.

    Raises:
        CheckpointError: the file with these settings cannot be read.
    """
    settings = read_settings(folder / "generation_config.json")
    named = settings.get("eos_token_id", getattr(llm.config, "eos_token_id", None))
    rows = embedding_table(llm).num_embeddings
    ids = [
        number
        for number in (named if isinstance(named, list) else [named])
        if isinstance(number, int) and 0 <= number < rows
    ]
    return GenerationConfig(eos_token_id=ids or None, bos_token_id=getattr(llm.config, "bos_token_id", None))
