"""The model of a configuration without its weights, and batches without their pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
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
from xraygpt.common.precision import frozen_dtype, vision_precision
from xraygpt.common.registry import registry
from xraygpt.doctor.dry_run import DryRun
from xraygpt.models.base_model import BaseModel
from xraygpt.models.causal_lm import CausalLM
from xraygpt.models.llm import load_tokenizer, require_llm
from xraygpt.models.mini_gpt4 import MiniGPT4

WEIGHT_FILES = ("vit_ckpt", "q_former_model", "bert_model", "ckpt")
"""Keys of the section ``model`` that name weights; null means random ones."""
ASSUMED_TOKENIZER = "package:weights/tiny/llama"
ASSUMED_LLM = (
    "its sizes are not known, so those of LLaMA-7B are assumed, with the small tokenizer of the shipped "
    "model, which makes more tokens of a text"
)


def build_skeleton(cfg: Config, device: torch.device, dry: DryRun) -> tuple[BaseModel, list[str]]:
    """Return the model that is configured, its tensors fake ones, and what had to be assumed.

    Raises:
        XrayGPTError: it cannot be built, whatever the weights.
    """
    cls = registry.get_model_class(cfg.arch, BaseModel)
    names = {field.name for field in fields(cfg.model_cfg)}
    config = replace(cfg.model_cfg, **{name: None for name in WEIGHT_FILES if name in names})
    if "vit_precision" in names:
        config = replace(config, vit_precision=vision_precision(config.vit_precision, device))
    notes: list[str] = []
    llm: PreTrainedModel | None = None
    if getattr(config, "llama_model", None) is not None:
        llm, tokenizer, notes = _language_model(config, device, dry)

    def build() -> BaseModel:
        if llm is None:
            return cls.from_config(config, device=device)
        if issubclass(cls, MiniGPT4):
            return cls.build(config, llm=llm, tokenizer=tokenizer)
        assert issubclass(cls, CausalLM)
        return cls(config, llm=llm, tokenizer=tokenizer, tokenizer_folder=Path(config.llama_model))

    try:
        with dry, torch.device(device):
            model = build()
    except ConfigError:  # an encoder of another library, which has to be tried out when it is built
        model = build()
        for child in model.children():
            if not any(isinstance(weight, FakeTensor) for weight in child.parameters()):
                child.to(device)
    dry.count(model)
    return model, notes


def _language_model(
    config: Any, device: torch.device, dry: DryRun
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[str]]:
    notes: list[str] = []
    try:
        folder = require_llm(config.llama_model, "model.llama_model")
        sizes = from_folder(AutoConfig, folder, "its configuration")
        tokenizer = load_tokenizer(folder)
    except MissingFileError:
        notes = [f"model.llama_model: {ASSUMED_LLM}"]
        tokenizer = load_tokenizer(require_llm(ASSUMED_TOKENIZER, "the shipped model"))
        sizes = LlamaConfig(pad_token_id=tokenizer.pad_token_id)
    # Text alone is trained in float32; else the language model is frozen.
    dtype = frozen_dtype(getattr(config, "llm_precision", "fp32"), device)
    with dry, torch.device(device):
        llm = AutoModelForCausalLM.from_config(sizes, dtype=dtype)
    return llm, tokenizer, notes


def without_pixels(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a batch whose tensors are new ones of the same shape; within a `DryRun` these take no memory."""
    return {
        key: torch.empty(value.shape, dtype=value.dtype, device=device)
        if isinstance(value, Tensor)
        else value
        for key, value in batch.items()
    }


def with_length(batch: Mapping[str, Any], caption: str) -> dict[str, Any]:
    """Return a batch all of whose reports are this one."""
    return {**batch, "caption": [caption] * len(batch["caption"])}


def of_size(batch: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return a batch of so many samples, each one of those given."""
    count = len(batch["image_id"])
    chosen = [number % count for number in range(size)]
    resized: dict[str, Any] = {}
    for key, value in batch.items():
        if isinstance(value, Tensor) and len(value) == count:
            resized[key] = value[chosen]
        elif isinstance(value, list):
            resized[key] = [value[number] for number in chosen]
        else:
            resized[key] = value
    return resized


def invented_batch(cfg: Config, size: int) -> dict[str, Any]:
    """Return a batch for a configuration whose data is not there: blank images, one word as a report."""
    batch: dict[str, Any] = {
        "caption": ["normal"] * size,
        "image_id": [str(number) for number in range(size)],
        "prompt": "",
        "source": "no data set",
    }
    if hasattr(cfg.model_cfg, "preprocessing"):
        side = cfg.model_cfg.preprocessing().image_size
        batch["image"] = torch.zeros(size, 3, side, side)
    if hasattr(cfg.model_cfg, "num_labels"):
        batch["labels"] = torch.zeros(size, cfg.model_cfg.num_labels)
    return batch
