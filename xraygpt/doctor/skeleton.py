"""The model of a configuration without its weights, and batches without their pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from xraygpt.common.errors import ConfigError, MissingFileError, XrayGPTError
from xraygpt.common.hf_folder import from_folder
from xraygpt.common.paths import resolve_path
from xraygpt.common.precision import frozen_dtype, vision_precision
from xraygpt.common.registry import registry
from xraygpt.doctor.dry_run import DryRun
from xraygpt.models.adapters import add_adapter
from xraygpt.models.base_model import BaseModel
from xraygpt.models.causal_lm import CausalLM
from xraygpt.models.llm import QUANTISED, LanguageModelConfig, load_tokenizer, require_llm
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.models.parts import EncoderConfig
from xraygpt.models.vision_tower import EVA_CLIP_G, preprocessing_for

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
ASSUMED_ENCODER = "its sizes are not known, so those of the released EVA-CLIP ViT-g are assumed"
ASSUMED_LLM = (
    "its sizes are not known, so those of LLaMA-7B are assumed, with the small tokenizer of the shipped "
    "model, which makes more tokens of a text"
)


def with_known_encoder(config: Any) -> tuple[Any, str | None]:
    """Return the section ``model`` with a vision encoder of known sizes, and what is wrong with its own."""
    try:
        preprocessing_for(config)
    except XrayGPTError as error:
        own = dict.fromkeys(("vit_ckpt", "img_size", "image_size", "drop_path_rate", "use_grad_checkpoint"))
        return replace(config, vit_model=EVA_CLIP_G, vision=EncoderConfig(), **own), str(error)
    return config, None


def build_skeleton(cfg: Config, device: torch.device, dry: DryRun) -> tuple[BaseModel, list[str]]:
    """Return the model that is configured, its tensors fake ones, and what had to be assumed.

    Raises:
        XrayGPTError: it cannot be built, whatever the weights.
    """
    names = {field.name for field in fields(cfg.model_cfg)}
    try:
        return _build(cfg, cfg.model_cfg, device, dry)
    except MissingFileError:
        named = {name: getattr(cfg.model_cfg, name) for name in names & set(ASSUMED)}
        missing = sorted(n for n, path in named.items() if path and not Path(resolve_path(path)).exists())
        assumed = {name: ASSUMED[name] for name in missing}
        model, notes = _build(cfg, replace(cfg.model_cfg, **assumed), device, dry)
        files = [f"model.{name}: {ASSUMED[name] or 'nothing'} is used in its place" for name in missing]
        return model, [*notes, *files]


def _build(cfg: Config, config: Any, device: torch.device, dry: DryRun) -> tuple[BaseModel, list[str]]:
    cls = registry.get_model_class(cfg.arch, BaseModel)
    names = {field.name for field in fields(config)}
    config = replace(config, **{name: None for name in WEIGHT_FILES if name in names})
    precision = config.load_precision() if isinstance(config, LanguageModelConfig) else "fp32"
    adapters = {name: getattr(config, name) for name in names & set(ADAPTERS) if getattr(config, name)}
    if adapters:  # they are put in below
        plain = {"llm_precision": "auto"} if "adapter" in adapters else {}
        config = replace(config, **dict.fromkeys(adapters), **plain)
    if "vit_precision" in names:
        config = replace(config, vit_precision=vision_precision(config.vit_precision, device))
    notes: list[str] = []
    llm: PreTrainedModel | None = None
    if getattr(config, "llama_model", None) is not None:
        llm, tokenizer, notes = _language_model(config.llama_model, precision, device, dry)

    def build() -> BaseModel:
        if llm is None:
            return cls.from_config(config, device=device)
        model: BaseModel
        if issubclass(cls, MiniGPT4):
            model = cls.build(config, llm=llm, tokenizer=tokenizer)
        else:
            assert issubclass(cls, CausalLM)
            folder = Path(config.llama_model)
            model = cls(config, llm=llm, tokenizer=tokenizer, tokenizer_folder=folder)
        return model

    try:
        with dry, torch.device(device):
            model = build()
    except ConfigError:  # an encoder of another library, which has to be tried out when it is built
        model = build()
        for child in model.children():
            if not any(isinstance(weight, FakeTensor) for weight in child.parameters()):
                child.to(device)
    for name, adapter in adapters.items():  # real numbers, as peft moves them about; few of them
        parts: Any = model
        in_encoder = name == "vit_adapter"
        part = parts.visual_encoder.network if in_encoder else parts.llama_model
        unused = parts.visual_encoder.without_effect() if in_encoder else ()
        add_adapter(part, replace(adapter, path=None, freeze=False), f"model.{name}", unused)
    dry.count(model)
    return model, notes


def _language_model(
    name: str, precision: str, device: torch.device, dry: DryRun
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[str]]:
    notes: list[str] = []
    try:
        folder = require_llm(name, "model.llama_model")
        sizes = from_folder(AutoConfig, folder, "its configuration")
        tokenizer = load_tokenizer(folder)
    except MissingFileError:
        notes = [f"model.llama_model: {ASSUMED_LLM}"]
        tokenizer = load_tokenizer(require_llm(ASSUMED["tokenizer"], "the shipped model"))
        sizes = LlamaConfig(pad_token_id=tokenizer.pad_token_id)
    if precision in QUANTISED:
        notes.append(f"model.llm_precision: {precision} is counted like auto, which takes more memory")
        precision = "auto"
    dtype = frozen_dtype(precision, device)
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


def with_length(batch: Mapping[str, Any], caption: str) -> dict[str, Any]:
    """Return a batch all of whose reports are this one, in place of conversations too."""
    others = {key: value for key, value in batch.items() if key != "turns"}
    return {**others, "caption": [caption] * len(batch["caption"])}


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
