"""What every model has in common: where its defaults are, how it is built, saved parts, frozen parts."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from xraygpt.common.checkpoint import load_state, load_weights_and_manifest
from xraygpt.common.config import MODEL_SELECTORS, build_typed, default_layer, without_selectors
from xraygpt.common.dist_utils import GatherLayer as GatherLayer
from xraygpt.common.dist_utils import all_gather_with_grad as all_gather_with_grad
from xraygpt.common.dist_utils import concat_all_gather as concat_all_gather
from xraygpt.common.errors import CheckpointError, ConfigError, UnknownNameError
from xraygpt.common.generation import GenerationConfig
from xraygpt.common.paths import cached_file, package_root
from xraygpt.models.generation import GeneratedReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrozenPart:
    """What stays as it is on the way from an image to the loss, so that its output can be computed once."""

    name: str
    """In words, e.g. "vision encoder"."""
    encode: Callable[[Tensor], Tensor]
    """Images (B, 3, H, W) -> features (B, N, D). The model takes features in place of images wherever it
    would call this, which then returns them."""
    shape: tuple[int, int]
    """(N, D)"""
    modules: Mapping[str, nn.Module]
    """Name -> module, of all whose weights decide about the features."""
    settings: Mapping[str, Any]
    """What else decides about them; plain values and dataclasses."""


# Files of the reference hold these although nothing trains them: tables that follow from the sizes alone.
COMPUTED_BUFFERS = (r".*\.embeddings\.position_ids$", r".*\.rotary_emb\.inv_freq$")


class BaseModel(nn.Module):
    """Base of the registered models.

    A model is a function of its batch: ``model(samples)`` returns ``{"loss": scalar, ...}``. What is trained
    is said by ``requires_grad`` alone; a part none of whose parameters is trained stays in evaluation mode,
    without dropout, whatever `train` is told.
    """

    config_class: ClassVar[type]
    """The dataclass that describes a configuration of this model."""
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = {}
    """Model type -> YAML file with its defaults, relative to the package."""
    MODEL_TYPE_REQUIRED: ClassVar[bool] = True
    """Whether a configuration has to start from one of these; else it may set everything itself."""
    IGNORED_KEYS: ClassVar[tuple[str, ...]] = COMPUTED_BUFFERS
    """Regular expressions for keys of checkpoints that are passed over."""

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
        """Look for the local files that `cfg` (an instance of `config_class`) names, before building.

        Raises:
            MissingFileError: with a paragraph for each file that is missing.
        """

    @classmethod
    def from_config(cls, cfg: Any, device: str | torch.device = "cpu") -> Self:
        """Build the model that `cfg` (an instance of `config_class`) describes and load its weights.

        Args:
            device: where the model is going to run, on which number formats depend; it is built on the CPU.
        """
        raise NotImplementedError(f"{cls.__name__} has to say how it is built from its configuration.")

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

    def generate(self, samples: Any, generation: GenerationConfig) -> list[str]:
        """Write one text for each row of the batch."""
        raise NotImplementedError(f"{type(self).__name__} does not generate text.")

    def generate_detailed(self, samples: Any, generation: GenerationConfig) -> list[GeneratedReport]:
        """Write the texts of `generate`, and tell of each how it came about."""
        raise NotImplementedError(f"{type(self).__name__} does not tell how its texts came about.")

    def load_checkpoint(self, url_or_filename: str | Path, required: Sequence[str] = ()) -> None:
        """Load a checkpoint, this project's or the reference's.

        A checkpoint holds only what was trained, so whole parts (children of this module) may be absent from
        it, those in `required` excepted; a part that is there must be complete.

        Raises:
            CheckpointError: a required part is missing, or what is there does not fit.
        """
        file = cached_file(url_or_filename)
        weights, manifest = load_weights_and_manifest(file)
        weights = self.translate_keys(weights)
        self.check_origin(weights, manifest, str(file))
        ignored = [re.compile(pattern) for pattern in self.IGNORED_KEYS]
        state = {
            name: value
            for name, value in weights.items()
            if not any(pattern.match(name) for pattern in ignored)
        }
        present = {name.split(".")[0] for name in state}
        parts = [name for name, _ in (*self.named_children(), *self.named_parameters(recurse=False))]
        if missing := [name for name in required if name not in present]:
            raise CheckpointError(
                f"{file} does not fit {type(self).__name__}: it holds no {', '.join(missing)} "
                f"(it holds: {', '.join(sorted(present))})."
            )
        absent = [name for name in parts if name not in present]
        load_state(
            self,
            state,
            where=str(file),
            expect_missing=[*self.IGNORED_KEYS, *(rf"{name}(\.|$)" for name in absent)],
        )
        logger.info("loaded %s from %s", ", ".join(sorted(present & set(parts))), file)

    def translate_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of a checkpoint, which may be of another project -> keys of this model."""
        return dict(state)

    def check_origin(self, state: Mapping[str, Tensor], manifest: Mapping[str, Any], where: str) -> None:
        """Raise CheckpointError if a checkpoint, or its manifest, is not meant for this model.

        For models that depend on a part which is not in their checkpoints.
        """

    def manifest(self) -> dict[str, Any]:
        """Facts that tell later which model a checkpoint belongs to; plain values only."""
        return {"model": type(self).__name__, "trainable": sum(p.numel() for p in self._trainable())}

    def export(self, folder: Path) -> None:
        """Write the trained model in the format that other configurations read, at the end of a training."""

    def cut_captions(self, captions: Sequence[str]) -> int:
        """Return how many of these reports training cuts, being longer than ``max_txt_len`` tokens."""
        return 0

    def caption_lengths(self, captions: Sequence[str]) -> list[int]:
        """Return how long these reports are in a training batch: in tokens, or in characters without any."""
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

    def _trainable(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


def freeze(module: nn.Module) -> None:
    """Exclude a module from training; `BaseModel.train` then keeps it in evaluation mode."""
    module.requires_grad_(False)
    module.eval()


def is_frozen(module: nn.Module) -> bool:
    """Whether the module has parameters and none of them is trained."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
