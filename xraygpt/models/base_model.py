"""What every model has in common: where its defaults are, how it is built, saved parts, frozen parts."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from xraygpt.common.checkpoint import load_state, load_weights_and_manifest
from xraygpt.common.config import MODEL_SELECTORS, build_typed, default_layer, without_selectors
from xraygpt.common.dist_utils import GatherLayer as GatherLayer
from xraygpt.common.dist_utils import all_gather_with_grad as all_gather_with_grad
from xraygpt.common.dist_utils import concat_all_gather as concat_all_gather
from xraygpt.common.errors import CheckpointError, ConfigError, UnknownNameError
from xraygpt.common.generation import GenerationConfig
from xraygpt.common.paths import Check, cached_file, file_check, package_root, require_all
from xraygpt.datasets.feature_cache import FrozenPart
from xraygpt.models.adapters import adapter_settings, has_adapter, is_adapter_key
from xraygpt.models.generation import GeneratedReport
from xraygpt.models.key_translation import COMPUTED

logger = logging.getLogger(__name__)

ADAPTED = {"llama_model": "model.adapter", "visual_encoder": "model.vit_adapter"}
"""Parts that may have an adapter, and the keys that say so."""


class BaseModel(nn.Module):
    """Base of the registered models.

    A model is a function of its batch: ``model(samples)`` returns ``{"loss": scalar, ...}``. What is trained
    is said by ``requires_grad`` alone; a part none of whose parameters is trained stays in evaluation mode,
    without dropout, whatever `train` is told.
    """

    config_class: ClassVar[type]
    """The dataclass that describes a configuration; its `ckpt` is the path of a checkpoint, or None."""
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = {}
    """Model type -> YAML file with its defaults, relative to the package."""
    MODEL_TYPE_REQUIRED: ClassVar[bool] = True
    """Whether a configuration has to start from one of these; else it may set everything itself."""
    IGNORED_KEYS: ClassVar[tuple[str, ...]] = (COMPUTED,)
    """Regular expressions for keys of checkpoints that are passed over."""
    CHECKPOINT: ClassVar[tuple[str, str]] = ("a trained model", "a training of this project")
    """What `ckpt` is and where it comes from, for the error if it is missing."""
    required_parts: tuple[str, ...] = ()
    """What `ckpt` has to hold."""
    max_txt_len: int | None = None
    """Most tokens of a report in a training; None: it does not read reports."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt_list: list[str] = []

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @classmethod
    def default_config_path(cls, model_type: str) -> Path:
        """The YAML file with the defaults of `model_type`."""
        if model_type not in cls.PRETRAINED_MODEL_CONFIG_DICT:
            raise UnknownNameError(f"type of {cls.__name__}", model_type, cls.PRETRAINED_MODEL_CONFIG_DICT)
        return package_root() / cls.PRETRAINED_MODEL_CONFIG_DICT[model_type]

    @classmethod
    def default_config(cls, model_type: str) -> dict[str, Any]:
        """The defaults of `model_type`: what its YAML file holds, sections ``model`` and ``preprocess``."""
        cls.default_config_path(model_type)
        return dict(default_layer(cls.PRETRAINED_MODEL_CONFIG_DICT[model_type]).values)

    @classmethod
    def check_files(cls, cfg: Any) -> None:
        """Raise MissingFileError, with a paragraph for each, if local files that `cfg` names are missing."""
        require_all([*cls.part_checks(cfg), file_check("model.ckpt", cfg.ckpt, *cls.CHECKPOINT)])

    @classmethod
    def part_checks(cls, cfg: Any) -> list[Check]:
        """Checks of the files that `cfg` names beside its checkpoint, for `require_all`."""
        return []

    @classmethod
    def from_config(cls, cfg: Any, device: str | torch.device = "cpu") -> Self:
        """Build the model that `cfg` (an instance of `config_class`) describes and load its weights.

        Args:
            device: where the model is going to run, on which number formats depend; it is built on the CPU.

        Raises:
            MissingFileError: one or more files are missing; all of them are named.
            CheckpointError: a file cannot be read or does not fit.
        """
        cls.check_files(cfg)
        model = cls.with_random_weights(cfg, device)
        model.load_pretrained(cfg)
        return model

    @classmethod
    def with_random_weights(cls, cfg: Any, device: str | torch.device = "cpu") -> Self:
        """The model of a configuration before its weights are loaded; `device` as in `from_config`."""
        raise NotImplementedError(f"{cls.__name__} has to say how it is built from its configuration.")

    def load_pretrained(self, cfg: Any) -> None:
        """Load the files that `cfg` names, each over what was there; raises as `from_config` does."""
        self.load_parts(cfg)
        self.add_adapters(cfg)
        if cfg.ckpt is not None:
            self.load_checkpoint(cfg.ckpt, required=self.required_parts)

    def load_parts(self, cfg: Any) -> None:
        """Load the files that `cfg` names beside its checkpoint."""

    def add_adapters(self, cfg: Any) -> None:
        """Put the adapters that `cfg` asks for into the parts, which have their weights by now."""

    @classmethod
    def from_pretrained(cls, model_type: str, device: str | torch.device = "cpu") -> Self:
        """Build and load the model with the defaults of `model_type`; `device` as in `from_config`."""
        return cls.from_config(cls.type_config(model_type), device=device)

    @classmethod
    def type_config(cls, model_type: str) -> Any:
        """The defaults of `model_type` as an instance of `config_class`."""
        section = without_selectors(cls.default_config(model_type)["model"], MODEL_SELECTORS)
        return build_typed(cls.config_class, section, where=cls.PRETRAINED_MODEL_CONFIG_DICT[model_type])

    def forward(self, samples: Any) -> dict[str, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} has to define its loss.")

    def frozen_part(self) -> FrozenPart:
        """The frozen part next to the image, as large as it can be, for `run.feature_cache`.

        Raises:
            ConfigError: there is none.
        """
        raise ConfigError(
            f"run.feature_cache: {type(self).__name__} has no frozen image encoder; leave the key out"
        )

    def generate(self, samples: Any, generation: GenerationConfig | None = None) -> list[str]:
        """Write a report for each row; keys of `samples` as in `forward`, captions not needed."""
        return [report.text for report in self.generate_detailed(samples, generation or GenerationConfig())]

    def generate_detailed(self, samples: Any, generation: GenerationConfig) -> list[GeneratedReport]:
        """The reports of `generate`, each with how it came about."""
        raise NotImplementedError(f"{type(self).__name__} does not generate text.")

    def load_checkpoint(self, url_or_filename: str | Path, required: Sequence[str] = ()) -> None:
        """Load a checkpoint, this project's or the reference's.

        A checkpoint holds only what was trained, so whole parts (children of this module) may be absent from
        it, those in `required` excepted; a part that is there must be complete, but for the frozen weights
        beside an adapter, and those of a language model whose embeddings were not trained.

        Raises:
            CheckpointError: a required part is missing, or what is there does not fit.
        """
        file = cached_file(url_or_filename)
        weights, manifest = load_weights_and_manifest(file)
        weights = self.translate_keys(weights)
        self.check_origin(weights, manifest, str(file))
        ignored = re.compile("|".join(self.IGNORED_KEYS))
        state = {name: value for name, value in weights.items() if not ignored.match(name)}
        present = {name.split(".")[0] for name in state}
        parts = [name for name, _ in (*self.named_children(), *self.named_parameters(recurse=False))]
        if missing := [name for name in required if name not in present]:
            raise CheckpointError(
                f"{file} does not fit {type(self).__name__}: it holds no {', '.join(missing)} "
                f"(it holds: {', '.join(sorted(present))})."
            )
        absent = [rf"{name}(\.|$)" for name in parts if name not in present]
        partly = [rf"{name}\.(?!.*\.lora_)" for name in self._partly_in(state, manifest, str(file))]
        load_state(self, state, where=str(file), expect_missing=[*self.IGNORED_KEYS, *absent, *partly])
        logger.info("loaded %s from %s", ", ".join(sorted(present & set(parts))), file)

    def _partly_in(self, state: Mapping[str, Tensor], manifest: Mapping[str, Any], where: str) -> list[str]:
        """Return the children of which a checkpoint holds some weights, and need not hold more.

        Raises CheckpointError for an adapter where the model has none.
        """
        partly = []
        for part, setting in ADAPTED.items():
            keys = [key for key in state if key.startswith(f"{part}.")]
            adapter = any(map(is_adapter_key, keys))
            if adapter and not has_adapter(getattr(self, part, self)):
                raise CheckpointError(
                    f"{where} holds an adapter beside {part}: set {setting} as in its training"
                    + (f", {manifest[setting]}" if setting in manifest else "")
                )
            # A trained language model with frozen embeddings: the numbers that were trained are all there.
            sizes = {name: p.numel() for name, p in self.named_parameters() if name in state}
            if adapter or (keys and sum(sizes.values()) == manifest.get("trainable")):
                partly.append(part)
        return partly

    def translate_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of a checkpoint, which may be of another project -> keys of this model."""
        return dict(state)

    def check_origin(self, state: Mapping[str, Tensor], manifest: Mapping[str, Any], where: str) -> None:
        """Raise CheckpointError unless a checkpoint, or its manifest, is meant for this model."""

    def manifest(self) -> dict[str, Any]:
        """Facts that tell later which model a checkpoint belongs to; plain values only."""
        trainable = sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
        name = next(cls.__name__ for cls in type(self).__mro__ if not issubclass(cls, FSDPModule))
        facts: dict[str, Any] = {"model": name, "trainable": trainable}
        for part, setting in ADAPTED.items():
            if has_adapter(getattr(self, part, nn.Identity())):
                lora = adapter_settings(getattr(self, part))
                targets = ", ".join(sorted(lora.target_modules or ()))
                facts[setting] = f"{{r: {lora.r}, alpha: {lora.lora_alpha}, targets: [{targets}]}}"
        return facts

    def export(self, folder: Path) -> None:
        """Write the trained model in the format that other configurations read, at the end of a training."""

    def cut_captions(self, captions: Sequence[str]) -> int:
        """Return how many of these reports training cuts, being longer than `max_txt_len` tokens."""
        if self.max_txt_len is None:
            return 0
        lengths = self.caption_lengths(captions, self.max_txt_len + 1)
        return sum(length > self.max_txt_len for length in lengths)

    def caption_lengths(self, captions: Sequence[str], longest: int | None = None) -> list[int]:
        """Return how long these reports are, cut at `longest`, by default at `max_txt_len`: in tokens, or in
        characters where there are none."""
        return [len(caption) for caption in captions]

    def before_evaluation(self, **kwargs: Any) -> None:
        """Called by a task before it evaluates; for models that have something to prepare."""

    def show_n_params(self, return_str: bool = True) -> int | str:
        """Number of parameters, as a number or like ``"3.1M"``."""
        total = sum(parameter.numel() for parameter in self.parameters())
        if not return_str:
            return total
        return f"{total / 1e6:.1f}M" if total >= 1e6 else f"{total / 1e3:.1f}K"

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for child in self.children():
            if is_frozen(child):
                child.eval()
        return self


def freeze(module: nn.Module) -> None:
    """Exclude a module from training; `BaseModel.train` then keeps it in evaluation mode."""
    module.requires_grad_(False)
    module.eval()


def is_frozen(module: nn.Module) -> bool:
    """Whether the module has parameters and none of them is trained."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
