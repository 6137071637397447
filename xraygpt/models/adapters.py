"""Low-rank adapters (LoRA): a few trained numbers beside the frozen weights of a language model or encoder.

The package peft puts them into the layers of a model in place, so that the model keeps its class, its
attributes and, but for the adapted layers, its keys. They travel as folders of peft's, which is imported when
there is an adapter only, as that takes seconds.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from xraygpt.common.checkpoint import load_weights
from xraygpt.common.errors import CheckpointError, ConfigError, MissingFileError
from xraygpt.common.hf_folder import fetched, read_settings
from xraygpt.common.optims import ADAPTER_KEY
from xraygpt.common.paths import HUB_PREFIX, Check, is_remote, require_file
from xraygpt.common.run_record import writing

if TYPE_CHECKING:
    from peft import LoraConfig

logger = logging.getLogger(__name__)
# It warns, whenever peft or transformers import it, of a kernel for CPUs that is not used here.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

SETTINGS_FILE, WEIGHTS_FILES = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
ALL_LINEAR: Literal["all-linear"] = "all-linear"
_PEFT_PREFIX = "base_model.model."
_RENAMED = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
"""Names of layers in transformers' earlier versions, which sources give -> later ones."""
_FACTS = "xraygpt"
"""Key of the metadata of our files that says for which base an adapter is."""


@dataclass
class AdapterConfig:
    """The section ``model.adapter``: which layers get an adapter, and of what size."""

    kind: Literal["lora"] = "lora"
    """Kind of adapter."""
    r: int = 16
    """Rank of the matrices that are added."""
    alpha: int = 32
    """What is added is multiplied by alpha / r."""
    dropout: float = 0.05
    """Dropout in front of the added matrices, in training."""
    targets: Literal["all-linear"] | list[str] = ALL_LINEAR
    """Names of the linear layers that get one, e.g. [q_proj, v_proj]; all-linear: all but the last."""
    path: str | None = None
    """Folder of peft's with the adapter to start from; its settings take the place of those above."""
    freeze: bool = False
    """Use the adapter of `path` as it is, without training it."""

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha < 1:
            raise ValueError(f"r and alpha must be at least 1, got {self.r} and {self.alpha}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if not self.targets:
            raise ValueError(f"targets must name layers, or be {ALL_LINEAR}")
        chosen = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        if self.path and (given := sorted({*chosen} - {"path", "freeze"})):
            raise ValueError(f"{', '.join(given)}: already decided by the adapter in path; leave out")
        if self.freeze and not self.path:
            raise ValueError("freeze: only the adapter of a path can be used without being trained")


def is_adapter_key(name: str) -> bool:
    """Tell whether a parameter, by its name, is part of an adapter."""
    return ADAPTER_KEY in name


def has_adapter(module: nn.Module) -> bool:
    """Tell whether there is an adapter in `module`."""
    return any(is_adapter_key(name) for name, _ in module.named_parameters())


def adapter_checks(config: AdapterConfig | None, setting: str) -> list[Check]:
    """Return a check of the folder that the section `setting` names, if it does, for `require_all`."""
    path = config.path if config else None
    return [] if path is None or is_remote(path) else [lambda: check_adapter_folder(path, f"{setting}.path")]


def check_adapter_folder(name: str, setting: str) -> Path:
    """Return the folder of an adapter; ``hf://owner/repository`` is fetched.

    Raises:
        MissingFileError: there is none, or its settings or weights are not in it.
    """
    source = "a folder that peft writes, with adapter_config.json and adapter_model.safetensors"
    if name.startswith(HUB_PREFIX):
        folder = fetched(name, setting)
    else:
        folder = require_file(name, what="an adapter", source=source, where=setting)
    for needed in ((SETTINGS_FILE,), WEIGHTS_FILES):
        if not any((folder / file).is_file() for file in needed):
            raise MissingFileError(f"{folder}: no {needed[0]} in it; {setting} has to name {source}")
    return folder


def add_adapter(
    module: nn.Module, config: AdapterConfig, setting: str, unused: Iterable[str] = ()
) -> dict[str, Any]:
    """Freeze `module` and put an adapter into its layers, as float32.

    Args:
        module: changed in place.
        setting: dotted key of `config`, for messages.
        unused: linear layers whose adapter would have no effect; they get none.

    Returns:
        What the adapter's file says of the model that it was trained for; empty without `config.path`, and
        for files of others.

    Raises:
        ConfigError: a target is the name of no linear layer.
        MissingFileError: no adapter in `config.path`.
        CheckpointError: it is of another kind, or for another model.
    """
    import peft

    facts: dict[str, Any] = {}
    weights: dict[str, Tensor] = {}
    if config.path is None:
        targets = _targets(module, config.targets, setting, set(unused))
        lora = peft.LoraConfig(
            r=config.r, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets
        )
    else:
        lora, weights, facts = _read(check_adapter_folder(config.path, f"{setting}.path"))
    module.requires_grad_(False)
    try:
        peft.inject_adapter_in_model(lora, module)
    except ValueError as error:  # targets of a folder that are not there
        raise CheckpointError(f"{config.path}: an adapter for another model: {error}") from error
    for name, parameter in module.named_parameters():
        if is_adapter_key(name):
            parameter.data = parameter.data.float()  # that of a bf16 layer would be bf16, too coarse to train
            parameter.requires_grad_(not config.freeze)
    if config.path is not None:
        own = peft.get_peft_model_state_dict(module, save_embedding_layers=False)
        sizes = {key: tuple(value.shape) for key, value in own.items()}
        if differing := sorted(sizes.items() ^ {(k, tuple(v.shape)) for k, v in weights.items()}):
            name, size = differing[0]
            raise CheckpointError(f"{config.path}: an adapter for another model, e.g. by {name} {size}")
        peft.set_peft_model_state_dict(module, weights)
    trained = sum(p.numel() for n, p in module.named_parameters() if is_adapter_key(n))
    logger.info("%s: %d numbers in the layers of %s", setting, trained, type(module).__name__)
    return facts


def save_adapter(module: nn.Module, folder: Path, base: str, facts: Mapping[str, Any]) -> None:
    """Write the adapter in `module` as a folder that ``peft.PeftModel.from_pretrained`` loads.

    Args:
        base: folder or id of the model without the adapter.
        facts: plain values that tell this model, for `add_adapter` to return.
    """
    import peft

    lora = dict(adapter_settings(module).to_dict(), base_model_name_or_path=base, inference_mode=True)
    state = peft.get_peft_model_state_dict(module, save_embedding_layers=False)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        peft.LoraConfig(**lora).save_pretrained(str(folder))
        save_file(
            {_PEFT_PREFIX + key: value.detach().cpu().contiguous() for key, value in state.items()},
            folder / WEIGHTS_FILES[0],
            metadata={"format": "pt", _FACTS: json.dumps(dict(facts))},
        )


def merge_adapter(module: nn.Module) -> None:
    """Add the adapter in `module` to the weights beside it, and take it out."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoraLayer) and isinstance(layer, BaseTunerLayer):
            layer.merge()
            module.set_submodule(name, layer.get_base_layer())


def adapter_settings(module: nn.Module) -> LoraConfig:
    """Return peft's settings of the adapter in `module`."""
    settings: Any = next(m.peft_config for m in module.modules() if hasattr(m, "peft_config"))
    lora: LoraConfig = settings["default"]
    return lora


def _targets(
    module: nn.Module, asked: Literal["all-linear"] | list[str], setting: str, unused: set[str]
) -> list[str]:
    """Return the layers that `asked` means: short names where these say it, else whole ones."""
    output = getattr(module, "get_output_embeddings", lambda: None)()
    linear = {name for name, m in module.named_modules() if isinstance(m, nn.Linear) and m is not output}
    short = {name: name.rpartition(".")[2] for name, _ in module.named_modules()}
    if asked == ALL_LINEAR:
        found = linear
    else:
        found = set()
        for target in asked:
            ends = (f".{target}", f".{_RENAMED.get(target, target)}")
            if not (called := {name for name in linear if f".{name}".endswith(ends)}):
                raise ConfigError(
                    f"{setting}.targets: no linear layer of {type(module).__name__} is called {target!r}; "
                    f"there are {', '.join(sorted({short[name] for name in linear}))}"
                )
            found |= called
    found -= unused
    if not found:
        raise ConfigError(f"{setting}.targets: {asked}: no layer there on which an adapter has an effect")
    names = {short[name] for name in found}
    unique = {name for name in short if short[name] in names} == found
    return sorted(names if unique else found)


def _read(folder: Path) -> tuple[LoraConfig, dict[str, Tensor], dict[str, Any]]:
    """Return settings, weights and facts of the adapter in a folder; CheckpointError if it is of no use."""
    import peft

    said = read_settings(folder / SETTINGS_FILE)
    if said.get("peft_type") != "LORA":
        raise CheckpointError(f"{folder}: an adapter of the kind {said.get('peft_type')}; only LORA is read")
    beyond = [key for key in ("modules_to_save", "trainable_token_indices") if said.get(key)]
    if beyond or said.get("bias", "none") != "none":
        raise CheckpointError(
            f"{folder}: holds more than low-rank matrices ({', '.join(beyond) or 'bias'}); merge it into its "
            "model with `xraygpt merge-adapter`, and name that folder in model.llama_model"
        )
    try:
        lora = peft.PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # values of whatever kind
        raise CheckpointError(f"{folder / SETTINGS_FILE}: cannot be read: {error}") from error
    assert isinstance(lora, peft.LoraConfig)
    lora.inference_mode = False
    file = next(folder / name for name in WEIGHTS_FILES if (folder / name).is_file())
    weights = {key.removeprefix(_PEFT_PREFIX): value for key, value in load_weights(file).items()}
    facts: dict[str, Any] = {}
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            facts = json.loads((opened.metadata() or {}).get(_FACTS, "{}"))
    return lora, weights, facts
