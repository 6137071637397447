"""The language model: any decoder that transformers knows, read from a Hugging Face folder.

The folder holds ``config.json``, the weights (``.safetensors`` or ``.bin``, whole or in shards) and the
tokenizer. Code in it is never run, and of its ``generation_config.json`` only the end-of-text ids are taken:
how to generate is the configuration's to say.
"""

import json
import logging
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from xraygpt.common.checkpoint import (
    check_tensor,
    check_weight_file,
    reading_safetensors,
    refuse_adapter,
    weight_files,
)
from xraygpt.common.dist_utils import replace_parameters, stand_in, whole
from xraygpt.common.errors import CheckpointError, ConfigError, MissingFileError
from xraygpt.common.hf_folder import fetched, from_folder, misfit, read_settings, refuse_code
from xraygpt.common.paths import HUB_PREFIX, install_hint, require_file
from xraygpt.common.precision import frozen_dtype
from xraygpt.models.adapters import AdapterConfig, is_adapter_key
from xraygpt.models.key_translation import COMPUTED
from xraygpt.models.llama_tokenizer import LlamaSentencePieceTokenizer, padding_without_row

logger = logging.getLogger(__name__)

LLM_SOURCE = (
    "a Hugging Face folder with config.json, weights and tokenizer; for XrayGPT the Vicuna-7B fine-tuned on "
    "radiology text that its authors publish (https://github.com/mbzuai-oryx/XrayGPT)"
)
_left_in_files = ContextVar("left_in_files", default=False)
_TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")
_TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".vocab", ".bpe", ".tiktoken")
_NOT_TOKENIZERS = [f"{part}config.json" for part in ("", "generation_", "processor_", "preprocessor_")]

QUANTISED = ("int8", "nf4")
"""Values of `llm_precision` for weights that bitsandbytes holds in fewer bits."""
_BY_US = "bitsandbytes"


@dataclass
class LanguageModelConfig:
    """How the language model is held in memory, and what of it is trained."""

    llm_precision: Literal["auto", "fp32", "bf16", "fp16", "int8", "nf4"] = "auto"
    """Number format of the language model; auto: what its folder is quantised to, if it is; else fp32 on the
    CPU and where it is trained, bf16 on a GPU with it, else fp16. int8 and nf4 (4 bits) need bitsandbytes."""
    adapter: AdapterConfig | None = None
    """A low-rank adapter in the language model, which is frozen then; e.g. {r: 16, alpha: 32}."""
    freeze_embeddings: bool = False
    """Where the language model is trained, leave its embeddings and its output layer as loaded."""
    llm_grad_checkpoint: bool = False
    """Recompute the activations of the language model in the backward pass: less memory, more time."""

    def weights_are_trained(self) -> bool:
        """Tell whether the language model's own weights are trained."""
        return self.adapter is None

    def check_trained(self) -> None:
        """Raise ValueError if the keys exclude each other."""
        if self.llm_precision in QUANTISED and self.weights_are_trained():
            raise ValueError(
                f"llm_precision: weights in {self.llm_precision} cannot be trained; train an adapter beside "
                "them: adapter: {r: 16}"
            )
        if self.freeze_embeddings and not self.weights_are_trained():
            raise ValueError("freeze_embeddings: the language model is frozen as a whole")

    def load_precision(self) -> str:
        """The number format to load the language model in, for `load_llm`."""
        trained = self.weights_are_trained() and self.llm_precision == "auto"
        return "fp32" if trained else self.llm_precision


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


@contextmanager
def weights_left_in_files() -> Iterator[None]:
    """Within it, `load_llm` reads no weights where it can: its parameters are a `stand_in` each.

    For models that are sharded before they are filled, so that no process holds all of a language model.
    """
    token = _left_in_files.set(True)
    try:
        yield
    finally:
        _left_in_files.reset(token)


def load_llm(folder: Path, precision: str = "auto", device: str | torch.device = "cpu") -> PreTrainedModel:
    """Read a decoder with its weights: onto the CPU, or where they are quantised, onto `device`.

    Args:
        precision: number format of its weights, see `LanguageModelConfig.llm_precision`; or "stored".
        device: where it is going to run, on which "auto" depends.

    Raises:
        MissingFileError: no weights in the folder, or no bitsandbytes where it is needed.
        ConfigError: a folder that is quantised already, and another precision.
        CheckpointError: a weight file that cannot be read, weights that are not finite numbers or do not fit
            ``config.json``, an adapter, or a folder that needs its own code.
    """
    files = _weight_files(folder)
    for file in files:
        check_weight_file(file)
    number_format = _number_format(folder, precision, device)
    if _left_in_files.get() and "device_map" in number_format:
        raise ConfigError(
            f"run.parallel.strategy is fsdp, which cannot shard the quantised weights of {folder}: set it to "
            "ddp, or model.llm_precision to bf16"
        )
    if (model := _empty_llm(folder, files, **number_format) if _left_in_files.get() else None) is None:
        model = _filled_llm(folder, files, number_format)
    model.eval()
    bos, eos = (getattr(model.config, name, None) for name in ("bos_token_id", "eos_token_id"))
    named = read_settings(folder / "generation_config.json").get("eos_token_id", eos)
    rows = embedding_table(model).num_embeddings
    ids = [n for n in _as_list(named) if isinstance(n, int) and 0 <= n < rows]
    model.generation_config = GenerationConfig(eos_token_id=ids or None, bos_token_id=bos)
    return model


def _filled_llm(folder: Path, files: list[Path], number_format: Mapping[str, Any]) -> PreTrainedModel:
    """The language model with its weights."""
    model: PreTrainedModel
    report: dict[str, Any]
    model, report = from_folder(
        AutoModelForCausalLM,
        folder,
        "the language model",
        output_loading_info=True,
        **number_format,
        # Else it is read from the folder, and what is in it would change or forbid what a user asks for.
        generation_config=GenerationConfig(),
    )
    if problems := misfit(report, COMPUTED):
        raise CheckpointError(f"{folder}: the weights do not fit config.json: {problems}.")
    shards = [read_settings(index).get("weight_map", {}) for index in sorted(folder.glob("*.index.json"))]
    places = {name: folder / file for shard in shards for name, file in shard.items()}
    for name, weight in model.named_parameters():
        check_tensor(name, weight, files[0] if len(files) == 1 else places.get(name, folder))
    compute_alike(model)
    return model


def compute_alike(llm: PreTrainedModel) -> None:
    """Let layers in 4 bits compute the same on every CPU, in training and evaluation.

    Where there is AVX-512 for bf16, bitsandbytes packs their weights anew for evaluation, in which they round
    differently and widths have to be multiples of 32.
    """
    layers: Iterable[Any] = llm.modules()
    for layer in layers:
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def _number_format(folder: Path, precision: str, device: str | torch.device) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` for the weights' number format."""
    there = read_settings(folder / "config.json").get("quantization_config") or {}
    kind = "nf4" if there.get("load_in_4bit") else "int8"
    if there and there.get("quant_method") != _BY_US:
        raise CheckpointError(
            f"{folder}: quantised by {there.get('quant_method')}, which is not read; name a folder with its "
            f"weights in fp16 or bf16, or quantised by {_BY_US}"
        )
    if there and precision not in ("auto", kind):
        raise ConfigError(
            f"the weights in {folder} are quantised to {kind}, and are asked for in {precision} "
            "(model.llm_precision, or because they are trained): set that to auto with an adapter or frozen "
            "weights, or name the folder of the model that they were made from"
        )
    if not there and precision not in QUANTISED:
        return {"dtype": "auto" if precision == "stored" else frozen_dtype(precision, device)}
    if find_spec(_BY_US) is None:
        raise MissingFileError(
            f"model.llm_precision: {kind if there else precision} needs the package {_BY_US}: "
            f"{install_hint('quantization')}"
        )
    wide = frozen_dtype("auto", device)
    nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": wide}
    bits = {"load_in_4bit": True, **nf4} if precision == "nf4" else {"load_in_8bit": True}
    asked = {} if there else {"quantization_config": BitsAndBytesConfig(**bits)}
    return {"dtype": wide, "device_map": {"": str(device)}, **asked}


def _empty_llm(folder: Path, files: list[Path], dtype: torch.dtype) -> PreTrainedModel | None:
    """The language model with a `stand_in` for each weight; None if its files have other names for them.

    Tables that follow from the sizes (rotary frequencies) have their values.
    """
    from accelerate import init_empty_weights  # takes a second

    config = from_folder(AutoConfig, folder, "the language model")
    places: dict[str, Path] = {}
    sizes: dict[str, list[int]] = {}
    for file in files:
        if file.suffix == ".safetensors":
            with reading_safetensors(file) as tensors:
                for name in list(tensors.keys()):
                    places[name], sizes[name] = file, tensors.get_slice(name).get_shape()
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    names: dict[nn.Parameter, list[str]] = {}  # a tied weight has several, one of which is in the file
    for name, weight in model.named_parameters(remove_duplicate=False):
        names.setdefault(weight, []).append(name)
    stored = {weight: next(filter(places.__contains__, owners), "") for weight, owners in names.items()}
    known = {name for owners in names.values() for name in owners}
    others = [name for name in places if name not in known and not re.match(COMPUTED, name)]
    if others or not all(stored.values()):
        logger.warning("%s cannot be read weight by weight: every process reads all of them", folder)
        return None
    wrong = [name for weight, name in stored.items() if list(weight.shape) != sizes[name]]
    if wrong:
        problems = f"of another size {sorted(wrong)[:8]}"
        raise CheckpointError(f"{folder}: the weights do not fit config.json: {problems}.")
    stand_ins = {
        names[weight][0]: stand_in(weight, partial(_read_weight, places[name], name, dtype))
        for weight, name in stored.items()
    }
    replace_parameters(model, stand_ins)
    return model


def _read_weight(file: Path, name: str, dtype: torch.dtype) -> Tensor:
    with reading_safetensors(file) as tensors:
        weight: Tensor = tensors.get_tensor(name)
    check_tensor(name, weight, file)
    return weight.to(dtype)


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
        message = "the tokenizer has no end-of-text token; name it in tokenizer_config.json."
        raise ConfigError(f"{folder}: {message}")
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
    """The ids that end a text: the tokenizer's, those that the language model's folder names, and the special
    tokens in `stops`, such as Llama 3's ``<|eot_id|>``, which the text that is searched does not show."""
    named = llm.generation_config.eos_token_id if llm.generation_config is not None else None
    ids = [tokenizer.eos_token_id, *_as_list(named)]
    added = tokenizer.added_tokens_decoder.items()
    special = {number for number, token in added if token.special} - {tokenizer.unk_token_id}
    for stop in stops:
        ids += [number for number in tokenizer(stop, add_special_tokens=False).input_ids if number in special]
    return [number for number in dict.fromkeys(ids) if number is not None]


def max_positions(llm: PreTrainedModel) -> int:
    """Most positions, prompt and text together, that a language model is of use for.

    Rotary positions have no end, but text beyond those of the training is of no use. "linear" and "dynamic"
    stretch the stated positions; the other settings state stretched ones.
    """
    positions = getattr(llm.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return 1 << 30  # e.g. ALiBi, which has no limit
    rope = getattr(llm.config, "rope_parameters", None) or {}
    stretched = rope.get("rope_type") in ("linear", "dynamic")
    return int(positions * rope.get("factor", 1.0)) if stretched else positions


def check_positions(llm: PreTrainedModel, before: int, new: int, setting: str) -> None:
    """Raise ConfigError if a prompt of `before` positions leaves no room for `new`, a setting's value."""
    limit = max_positions(llm)
    if before + new > limit:
        raise ConfigError(
            f"{setting} is {new} and the prompt with its image takes {before} positions: {before + new} "
            f"together, of which the language model has {limit}. Set {setting} to {limit - before} at most"
            + ("" if limit > before else ", with a shorter prompt")
        )


def llm_facts(llm: PreTrainedModel, folder: str) -> dict[str, Any]:
    """What a manifest says of the language model beside its sizes: name of its folder, some frozen weights.

    A fine-tuned model often has the embeddings of its base, so values come from its last layers too, and from
    several matrices, as LoRA changes only some. Those of adapters are not looked at, nor weights in fewer
    bits, which differ from what they were made from.
    """
    table = embedding_table(llm).weight
    named = [(name, weight) for name, weight in llm.named_parameters() if not is_adapter_key(name)]
    matrices = [weight for _, weight in named if weight.dim() == 2 and weight is not table]
    last = matrices[-8:]  # in LLaMA those of the last layer and the output layer

    def probes(weight: Tensor, number: int) -> list[float]:  # evenly spread over the weight
        flat = whole(weight).detach().flatten()
        step = max(len(flat) // number, 1)
        return flat[step // 2 :: step][:number].float().tolist()

    facts: dict[str, Any] = {"llama_model": Path(folder).name}
    if not table.requires_grad:
        facts["llm_weights"] = probes(table, 8)
    if all(
        weight.is_floating_point() and not weight.requires_grad for _, weight in named if weight.dim() == 2
    ):
        facts["llm_layer_weights"] = [value for weight in last for value in probes(weight, 4)]
    return facts


def check_same_llm(
    state: Mapping[str, Tensor], manifest: Mapping[str, Any], own: Mapping[str, Any], where: str
) -> None:
    """Raise CheckpointError if a projection was trained for another language model, naming both.

    A folder may be renamed: the weights decide where the manifest holds some, else the name.

    Args:
        state, manifest: of the checkpoint; files of the reference have no manifest.
        own: the manifest of the model that the checkpoint is loaded into.
    """
    theirs = dict(manifest)
    if "llama_proj.bias" in state:
        theirs["llm_hidden_size"] = len(state["llama_proj.bias"])
    # Files of earlier versions have the first of these only, or none.
    weights = [key for key in ("llm_weights", "llm_layer_weights") if key in theirs and key in own]
    holds_llm = any(key.startswith("llama_model.") and not is_adapter_key(key) for key in state)
    exact = ["llm_hidden_size", "vocab_size", *([] if weights or holds_llm else ["llama_model"])]
    # Rounding changes a weight by 0.4 % at most (bfloat16), or by 0.05 % (float16).
    close = partial(math.isclose, rel_tol=0.005, abs_tol=1e-6)
    same = all(theirs.get(key, own[key]) == own[key] for key in exact) and all(
        len(theirs[key]) == len(own[key]) and all(map(close, theirs[key], own[key])) for key in weights
    )
    if not same:
        names = []
        for facts in (theirs, own):
            tokens = f", {facts['vocab_size']} tokens" if "vocab_size" in facts else ""
            name = facts.get("llama_model", "one that the file does not name")
            names.append(f"{name} (width {facts.get('llm_hidden_size')}{tokens})")
        raise CheckpointError(
            f"{where} was trained for another language model.\n"
            f"  trained for:       {names[0]}\n"
            f"  model.llama_model: {names[1]}\n"
            "  Set model.llama_model to the one it was trained for, or name another checkpoint in model.ckpt."
        )


def _weight_files(folder: Path) -> list[Path]:
    try:
        return weight_files(folder)
    except MissingFileError as error:
        raise MissingFileError(f"{error}; it has to be {LLM_SOURCE}") from error


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
