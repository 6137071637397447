"""The language model: any decoder that transformers knows, read from a Hugging Face folder.

The folder holds ``config.json``, the weights (``.safetensors`` or ``.bin``, whole or in shards) and the
tokenizer. Code in it is never run, and of its ``generation_config.json`` only the end-of-text ids are taken:
how to generate is the configuration's to say.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from xraygpt.common.checkpoint import check_tensor, check_weight_file, refuse_adapter, weight_files
from xraygpt.common.errors import CheckpointError, ConfigError, MissingFileError
from xraygpt.common.hf_folder import fetched, from_folder, read_settings, refuse_code
from xraygpt.common.paths import HUB_PREFIX, require_file
from xraygpt.common.precision import frozen_dtype
from xraygpt.models.llama_tokenizer import LlamaSentencePieceTokenizer, padding_without_row

LLM_SOURCE = (
    "a Hugging Face folder with config.json, weights and tokenizer; for XrayGPT the Vicuna-7B fine-tuned on "
    "radiology text that its authors publish (https://github.com/mbzuai-oryx/XrayGPT)"
)
_COMPUTED = "rotary_emb.inv_freq"
_TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")
_TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".vocab", ".bpe", ".tiktoken")
_NOT_TOKENIZERS = [f"{part}config.json" for part in ("", "generation_", "processor_", "preprocessor_")]
EMBEDDING_PROBES, MATRICES, MATRIX_PROBES = 8, 8, 4
"""In LLaMA the last eight matrices are those of the last layer and the output layer."""
TOLERANCE = 0.005
"""Relative; rounding changes a weight by 0.4 % at most (bfloat16), or by 0.05 % (float16)."""
WEIGHTS = ("llm_weights", "llm_layer_weights")
"""Keys of a manifest; files of earlier versions have the first one only, or none."""


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
    files = _weight_files(folder)
    for file in files:
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
    shards = [read_settings(index).get("weight_map", {}) for index in sorted(folder.glob("*.index.json"))]
    places = {name: folder / file for shard in shards for name, file in shard.items()}
    for name, weight in model.named_parameters():
        check_tensor(name, weight, files[0] if len(files) == 1 else places.get(name, folder))
    bos, eos = (getattr(model.config, name, None) for name in ("bos_token_id", "eos_token_id"))
    named = read_settings(folder / "generation_config.json").get("eos_token_id", eos)
    rows = embedding_table(model).num_embeddings
    ids = [n for n in _as_list(named) if isinstance(n, int) and 0 <= n < rows]
    model.generation_config = GenerationConfig(eos_token_id=ids or None, bos_token_id=bos)
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
    kind = str(read_settings(folder / "tokenizer_config.json").get("tokenizer_class", "LlamaTokenizer"))
    if (folder / "tokenizer.model").is_file() and kind.startswith(("LlamaTokenizer", "LlamaSentencePiece")):
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
    """The ids that end a text: the tokenizer's, those that the folder of the language model names, and the
    special tokens in `stops`, which do not show in the text that is searched, such as Llama 3's
    ``<|eot_id|>``.
    """
    named = llm.generation_config.eos_token_id if llm.generation_config is not None else None
    ids = [tokenizer.eos_token_id, *_as_list(named)]
    added = tokenizer.added_tokens_decoder.items()
    special = {number for number, token in added if token.special} - {tokenizer.unk_token_id}
    for stop in stops:
        ids += [number for number in tokenizer(stop, add_special_tokens=False).input_ids if number in special]
    return [number for number in dict.fromkeys(ids) if number is not None]


def max_positions(llm: PreTrainedModel) -> int:
    """Most positions, prompt and text together, that a language model is of use for.

    With rotary positions any length can be computed, but what is written beyond those of the training is of
    no use. "linear" and "dynamic" stretch the stated positions; the other settings state stretched ones.
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


def llm_facts(llm: PreTrainedModel, folder: str) -> dict[str, Any]:
    """What a manifest says of the language model: name of its folder, sizes, some weights.

    A fine-tuned model often has the embeddings of its base, so values come from its last layers too, and from
    several matrices, as LoRA changes only some.
    """
    table = embedding_table(llm).weight
    matrices = [weight for weight in llm.parameters() if weight.dim() == 2 and weight is not table]
    return {
        "llama_model": Path(folder).name,
        "llm_hidden_size": int(llm.config.hidden_size),
        "vocab_size": int(llm.config.vocab_size),
        "llm_weights": _probes(table, EMBEDDING_PROBES),
        "llm_layer_weights": [v for w in matrices[-MATRICES:] for v in _probes(w, MATRIX_PROBES)],
    }


def check_same_llm(
    state: Mapping[str, Tensor], manifest: Mapping[str, Any], own: Mapping[str, Any], where: str
) -> None:
    """Raise CheckpointError if a projection was trained for another language model, naming both.

    A folder may be renamed: the weights decide where the manifest holds some, else the name.

    Args:
        state, manifest: of the checkpoint; files of the reference have no manifest.
        own: `llm_facts` of the model that the checkpoint is loaded into.
    """
    width = len(state["llama_proj.bias"]) if "llama_proj.bias" in state else None
    if width not in (None, own["llm_hidden_size"]) or not _same(manifest, own):
        raise CheckpointError(
            f"{where} was trained for another language model.\n"
            f"  trained for:       {_named(manifest, width)}\n"
            f"  model.llama_model: {_named(own, own['llm_hidden_size'])}\n"
            "  Set model.llama_model to the one it was trained for, or name another checkpoint in model.ckpt."
        )


def _same(manifest: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    if any(manifest.get(key, own[key]) != own[key] for key in ("llm_hidden_size", "vocab_size")):
        return False
    weights = [(manifest[key], own[key]) for key in WEIGHTS if key in manifest]
    if weights:
        return all(
            len(theirs) == len(ours)
            and all(map(partial(math.isclose, rel_tol=TOLERANCE, abs_tol=1e-6), theirs, ours))
            for theirs, ours in weights
        )
    return bool(manifest.get("llama_model", own["llama_model"]) == own["llama_model"])


def _probes(weight: Tensor, number: int) -> list[float]:
    """`number` values, evenly spread over a weight."""
    flat = weight.detach().flatten()
    step = max(len(flat) // number, 1)
    return flat[step // 2 :: step][:number].float().tolist()


def _named(facts: Mapping[str, Any], width: int | None) -> str:
    name = facts.get("llama_model", "one that the file does not name")
    tokens = f", {facts['vocab_size']} tokens" if "vocab_size" in facts else ""
    return f"{name} (width {facts.get('llm_hidden_size', width)}{tokens})"


def _weight_files(folder: Path) -> list[Path]:
    try:
        return weight_files(folder)
    except MissingFileError as error:
        raise MissingFileError(f"{error}; it has to be {LLM_SOURCE}") from error


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
