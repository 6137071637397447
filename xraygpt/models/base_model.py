"""What every model has in common: where its defaults are, how it is built, saved parts, frozen parts, whether
the files of its configuration are there (all told at once before anything is built), and whether a batch
holds what a model is trained on.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xraygpt.common.checkpoint import load_state, load_weights_and_manifest
from xraygpt.common.config import MODEL_SELECTORS, build_typed, default_layer, without_selectors
from xraygpt.common.errors import CheckpointError, ConfigError, DataError, MissingFileError, UnknownNameError
from xraygpt.common.generation import GenerationConfig
from xraygpt.common.paths import PACKAGE_PREFIX, cached_file, is_remote, package_root, require_file
from xraygpt.models.generation import GeneratedReport

logger = logging.getLogger(__name__)


def source_of(samples: Mapping[str, Any]) -> str:
    """The data set of a batch, in words."""
    return f"the data set '{samples['source']}'" if "source" in samples else "the data set"


def images_of(samples: Mapping[str, Any]) -> Tensor:
    """The images of a batch, (B, 3, H, W), or their features, (B, N, D), see `FrozenPart`.

    Raises:
        DataError: it has neither.
    """
    if "features" in samples:
        features: Tensor = samples["features"]
        return features
    if "image" not in samples:
        key = f"datasets.{samples.get('source', '<name>')}.data_type"
        raise DataError(
            f"this model needs images, and {source_of(samples)} gives none: set {key} to images (text is for "
            "the model causal_lm), or leave the data set out"
        )
    image: Tensor = samples["image"]
    return image


def captions_of(samples: Mapping[str, Any]) -> list[str]:
    """The reports of a batch, B texts.

    Raises:
        DataError: it has none.
    """
    if "caption" not in samples:
        raise DataError(f'this needs reports, and {source_of(samples)} gives none (key "caption")')
    return list(samples["caption"])


def labels_of(samples: Mapping[str, Any], num_labels: int) -> Tensor:
    """The labels of a batch, (B, K) float32, where K is `num_labels`.

    Raises:
        DataError: it has none, or of another number.
    """
    if "labels" not in samples:
        raise DataError(
            f"this model needs labels of findings, and {source_of(samples)} gives none: leave it out of "
            "datasets; phantom has them"
        )
    labels: Tensor = samples["labels"]
    if labels.shape[1:] != (num_labels,):
        raise DataError(
            f"{source_of(samples)} gives {tuple(labels.shape)[-1]} labels for each image, and the model has "
            f"{num_labels}: set model.num_labels to {tuple(labels.shape)[-1]}"
        )
    return labels.float()


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


Check = Callable[[], object]
"""Raises MissingFileError if something is not there."""


def file_check(key: str, path: str | None, what: str, source: str) -> Check:
    """A check of one file; null and what is fetched from elsewhere pass.

    Args:
        key: of the configuration, e.g. "model.ckpt".
        what, source: what it is and where it comes from, see `require_file`.
    """

    def check() -> None:
        if path is not None and not is_remote(path):
            here = path.startswith(PACKAGE_PREFIX)
            require_file(path, what, "this repository, or `make tiny`" if here else source, where=key)

    return check


def require_all(checks: Iterable[Check]) -> None:
    """Run all checks.

    Raises:
        MissingFileError: with a paragraph for each that failed, the same one only once.
    """
    problems: list[str] = []
    for check in checks:
        try:
            check()
        except MissingFileError as error:
            problems.append(str(error))
    if problems:
        raise MissingFileError("\n".join(dict.fromkeys(problems)))


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


def concat_all_gather(tensor: Tensor) -> Tensor:
    """Rows of all processes, (B, ...) -> (world * B, ...), without gradient."""
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


class GatherLayer(torch.autograd.Function):
    """All-gather that sends the gradient of each process's rows back to that process."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = torch.stack(grads)
        dist.all_reduce(total)
        return total[dist.get_rank()]


def all_gather_with_grad(tensors: Tensor) -> Tensor:
    """Rows of all processes, (B, ...) -> (world * B, ...), with gradient."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensors
    return torch.cat(GatherLayer.apply(tensors))
