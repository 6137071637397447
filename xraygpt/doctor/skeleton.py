"""The model of a configuration without its weights, and batches without their pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from xraygpt.common.config import Config
from xraygpt.common.errors import ConfigError, MissingFileError
from xraygpt.common.hf_folder import from_folder
from xraygpt.common.paths import resolve_path
from xraygpt.common.precision import frozen_dtype, vision_precision
from xraygpt.common.registry import registry
from xraygpt.doctor.dry_run import DryRun
from xraygpt.models.adapters import add_adapter
from xraygpt.models.base_model import BaseModel
from xraygpt.models.llm import QUANTISED, LanguageModelConfig, load_tokenizer, require_llm
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.models.parts import EncoderConfig
from xraygpt.models.vision_tower import EVA_CLIP_G

WEIGHT_FILES = ("vit_ckpt", "q_former_model", "bert_model", "ckpt")
"""Keys of the section ``model`` that name weights; null means random ones."""
ADAPTERS = ("adapter", "vit_adapter")
"""Keys of the section ``model`` that ask for adapters."""
ASSUMED = {
    "tokenizer": "package:weights/tiny/llama",
    "bert_tokenizer": "package:weights/tiny/bert/vocab.txt",
    "prompt_path": "",
}
"""What stands in for files without which a model cannot be built."""
ASSUMED_ENCODER = (
    "model.vit_model: its sizes are not known, so those of the released EVA-CLIP ViT-g are assumed"
)
ASSUMED_LLM = (
    "model.llama_model: its sizes are not known, so those of LLaMA-7B are assumed, with the small tokenizer "
    "of the shipped model, which makes more tokens of a text"
)
NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight with its scales: a byte for 64 weights, and a float32 for 256 of those bytes."""


def with_released_encoder(config: Any) -> Any:
    """Return the section ``model`` with the released vision encoder in place of its own."""
    own = dict.fromkeys(("vit_ckpt", "img_size", "image_size", "drop_path_rate", "use_grad_checkpoint"))
    return replace(config, vit_model=EVA_CLIP_G, vision=EncoderConfig(), **own)


def build_skeleton(cfg: Config, device: torch.device, dry: DryRun, notes: list[str]) -> BaseModel:
    """Return the model that is configured, its tensors fake ones; what had to be assumed is added to `notes`.

    Raises:
        XrayGPTError: it cannot be built, whatever the weights.
    """
    config: Any = cfg.model_cfg
    names = {field.name for field in fields(config)}
    adapters = {name: getattr(config, name) for name in names & set(ADAPTERS) if getattr(config, name)}
    precision = config.load_precision() if isinstance(config, LanguageModelConfig) else "fp32"
    changes: dict[str, Any] = dict.fromkeys((*WEIGHT_FILES, *ADAPTERS))  # adapters are put in below
    if "adapter" in adapters:
        changes["llm_precision"] = "auto"
    if "vit_precision" in names:
        changes["vit_precision"] = vision_precision(config.vit_precision, device)
    config = replace(config, **{name: value for name, value in changes.items() if name in names})
    parts: dict[str, Any] = {}
    if getattr(config, "llama_model", None) is not None:
        llm, tokenizer = _language_model(config.llama_model, precision, device, dry, notes)
        parts = {"llm": llm, "tokenizer": tokenizer}
    try:
        model = _compose(cfg.arch, config, parts, device, dry)
    except MissingFileError:
        paths = {name: getattr(config, name) for name in sorted(names & set(ASSUMED))}
        missing = [name for name, path in paths.items() if path and not Path(resolve_path(path)).exists()]
        notes += [f"model.{name}: {ASSUMED[name] or 'nothing'} is used in its place" for name in missing]
        config = replace(config, **{name: ASSUMED[name] for name in missing})
        model = _compose(cfg.arch, config, parts, device, dry)
    for name, adapter in adapters.items():  # real numbers, as peft moves them about; few of them
        of: Any = model
        in_encoder = name == "vit_adapter"
        part = of.visual_encoder.network if in_encoder else of.llama_model
        unused = of.visual_encoder.without_effect() if in_encoder else ()
        add_adapter(part, replace(adapter, path=None, freeze=False), f"model.{name}", unused)
    dry.count(model)
    return model


def _compose(arch: str, config: Any, parts: dict[str, Any], device: torch.device, dry: DryRun) -> BaseModel:
    cls: Any = registry.get_model_class(arch, BaseModel)

    def build() -> BaseModel:
        model: BaseModel
        if not parts:
            model = cls.from_config(config, device=device)
        elif issubclass(cls, MiniGPT4):
            model = cls.build(config, **parts)
        else:  # a `CausalLM`
            model = cls(config, **parts, tokenizer_folder=Path(config.llama_model))
        return model

    try:
        with dry, torch.device(device):
            return build()
    except ConfigError:  # an encoder of another library, which has to be tried out when it is built
        model = build()
        for child in model.children():
            if not any(isinstance(weight, FakeTensor) for weight in child.parameters()):
                child.to(device)
        return model


def _language_model(
    name: str, precision: str, device: torch.device, dry: DryRun, notes: list[str]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        folder = require_llm(name, "model.llama_model")
        sizes = from_folder(AutoConfig, folder, "its configuration")
        tokenizer = load_tokenizer(folder)
    except MissingFileError:
        notes.append(ASSUMED_LLM)
        tokenizer = load_tokenizer(require_llm(ASSUMED["tokenizer"], "the shipped model"))
        sizes = LlamaConfig(pad_token_id=tokenizer.pad_token_id)
    with dry, torch.device(device):
        dtype = frozen_dtype("auto" if precision in QUANTISED else precision, device)
        llm: PreTrainedModel = AutoModelForCausalLM.from_config(sizes, dtype=dtype)
        if precision in QUANTISED:
            _quantise(llm, precision)
            notes.append(
                f"model.llm_precision: {precision} counts in the memory of weights; what a layer takes while "
                "it is made wide again to compute, and the time of that, are not counted"
            )
    return llm, tokenizer


def _quantise(llm: PreTrainedModel, precision: str) -> None:
    """Let the weights of linear layers, but for the output layer's, lie in as few bytes as bitsandbytes'.

    They keep the shape and the number format that they are computed in: their rows overlap.
    """
    for module in llm.modules():
        if isinstance(module, nn.Linear) and module is not llm.get_output_embeddings():
            weight = module.weight
            row = weight.shape[1] * NF4_BYTES if precision == "nf4" else weight.shape[1] + 4
            stride = (math.ceil(row / weight.itemsize), 1)
            small = torch.empty_strided(weight.shape, stride, dtype=weight.dtype, device=weight.device)
            module.weight = nn.Parameter(small, requires_grad=False)


def with_features(batch: Mapping[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
    """Return a batch with features of this shape, (N, D), in place of its images."""
    rest = {key: value for key, value in batch.items() if key != "image"}
    return {**rest, "features": torch.zeros(len(batch["image_id"]), *shape)}


def next_token(model: Any, rows: int) -> Callable[[Any], object]:
    """Return a function by which a language model writes one more token in so many rows."""
    llm = model.llama_model

    def write(samples: Any) -> object:
        embeds = torch.empty(rows, 1, llm.config.hidden_size, dtype=llm.dtype, device=llm.device)
        return llm(inputs_embeds=embeds, use_cache=False)

    return write


def of_size(batch: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return a batch of so many samples, each one of those given."""
    count = len(batch["image_id"])
    chosen = [number % count for number in range(size)]
    resized: dict[str, Any] = dict(batch)
    for key, value in batch.items():
        if isinstance(value, Tensor):
            resized[key] = value[chosen]
        elif isinstance(value, list) and len(value) == count:
            resized[key] = [value[number] for number in chosen]
    return resized


def invented_batch(config: Any, size: int, caption: str) -> dict[str, Any]:
    """Return a batch for a model whose data is not there: blank images, all with this report."""
    batch: dict[str, Any] = {"caption": [caption], "image_id": ["0"], "prompt": "", "source": "no data set"}
    if hasattr(config, "preprocessing"):
        side = config.preprocessing().image_size
        batch["image"] = torch.zeros(1, 3, side, side)
    if hasattr(config, "num_labels"):
        batch["labels"] = torch.zeros(1, config.num_labels)
    return of_size(batch, size)
