"""``vit_model: hf:FOLDER_OR_ID``: the vision model of a folder in Hugging Face's format, such as Dinov2
(RAD-DINO), SigLIP, the vision half of CLIP, ViT or Swin.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from PIL.Image import Resampling
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from xraygpt.common.checkpoint import load_weights
from xraygpt.common.errors import CheckpointError, ConfigError
from xraygpt.common.hf_folder import fetched, from_folder, read_settings
from xraygpt.common.paths import HUB_PREFIX, cached_file, require_file, resolve_path
from xraygpt.common.registry import registry
from xraygpt.models.encoders.trunk import TrunkConfig, TrunkEncoder, building
from xraygpt.processors import Preprocessing

_UNUSED = ("pooler.", "head.", "classifier.")
"""What makes one answer of all tokens: it may be missing from the weights, and is not kept."""
_DERIVED = ("stage_names", "out_features", "out_indices")
"""Keys of a configuration that follow from the number of stages."""
_COMPUTED = ("position_ids", "relative_position_index")
SOURCE = "a folder in Hugging Face's format with config.json and the weights of a vision model"


@registry.register_vision_encoder("hf")
class HFEncoder(TrunkEncoder):
    """A vision model of transformers; `vision.args` replace keys of its ``config.json``."""

    trunk: PreTrainedModel

    @classmethod
    def check(cls, config: Any, name: str) -> None:
        if not name:
            raise ValueError("vit_model: hf: needs a folder or an id behind the colon, hf:FOLDER_OR_ID")

    @classmethod
    def own_weights(cls, name: str) -> str | None:
        return HUB_PREFIX + name.removeprefix(HUB_PREFIX) if _is_hub_id(name) else name

    @classmethod
    def locate(cls, name: str) -> Path:
        return vision_folder(name) if _is_hub_id(name) else cached_file(name)

    @classmethod
    def preprocessing_of(cls, config: Any, name: str) -> Preprocessing:
        folder = vision_folder(name)
        return _preprocessing(read_settings(folder / "preprocessor_config.json"), config, read_config(folder))

    @classmethod
    def from_config(cls, config: Any, name: str) -> Self:
        """Build it with random weights."""
        trunk = build_trunk(read_config(vision_folder(name)), config.args, f"hf:{name}")
        return cls(trunk, config, cls.preprocessing_of(config, name), f"hf:{name}")

    def __init__(
        self, trunk: PreTrainedModel, config: TrunkConfig, preprocessing: Preprocessing, label: str
    ) -> None:
        asked = inspect.signature(trunk.forward).parameters
        self.resizes = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in asked else {}
        patch = getattr(trunk.config, "patch_size", None)
        patch = patch[0] if isinstance(patch, list | tuple) else patch
        super().__init__(trunk, config, preprocessing, label, patch_size=patch)
        self.identity = f"hf:{trunk.config.model_type}"
        if config.use_grad_checkpoint:
            trunk.gradient_checkpointing_enable()

    def run_trunk(self, image: Tensor) -> Any:
        return self.trunk(pixel_values=image, **self.resizes)

    def load(self, path: Path) -> None:
        """Load weights by the keys that transformers knows, of this version or of earlier ones."""
        state = self.trunk_keys(load_weights(path))
        load_trunk(self.trunk, state, str(path))

    def trunk_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        plain = {key.removeprefix("visual_encoder.").removeprefix("trunk."): v for key, v in state.items()}
        return {key: value for key, value in plain.items() if not key.endswith(_COMPUTED)}


def vision_folder(name: str) -> Path:
    """The folder of a vision model: one on this machine, or an id of the hub.

    Raises:
        MissingFileError: it is not there and cannot be fetched.
    """
    if _is_hub_id(name):
        return fetched(HUB_PREFIX + name.removeprefix(HUB_PREFIX), "model.vit_model")
    return require_file(name, "a vision encoder", SOURCE, "model.vit_model")


def _is_hub_id(name: str) -> bool:
    """Whether a name is ``owner/repository``, and no folder here is called so."""
    plain = name.removeprefix(HUB_PREFIX)
    named = plain.count("/") == 1 and not plain.startswith((".", "/", "~"))
    return named and (name != plain or not Path(str(resolve_path(name))).exists())


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration of the vision model in a folder, or of the vision half of what is in it.

    Raises:
        MissingFileError, CheckpointError: none can be read.
        ConfigError: the model reads no images.
    """
    require_file(folder / "config.json", "the configuration of a vision encoder", SOURCE, "model.vit_model")
    config: PreTrainedConfig = from_folder(AutoConfig, folder, "its configuration")
    config = getattr(config, "vision_config", config)
    if type(config) not in MODEL_MAPPING or not hasattr(config, "num_channels"):
        raise ConfigError(f"model.vit_model: {folder} holds a {config.model_type}, which is no vision model")
    return config


def build_trunk(config: PreTrainedConfig, args: Mapping[str, Any], label: str) -> PreTrainedModel:
    """A vision model with random weights, without what makes one answer of all tokens.

    Raises:
        ConfigError: `args`, which replace keys of `config`, are none of its keys, or no sizes for it.
    """
    if unknown := sorted(set(args) - set(config.to_dict())):
        raise ConfigError(f"model.vision.args: {', '.join(unknown)}: no keys of a {config.model_type}")
    with building(label):
        kept = {key: value for key, value in config.to_diff_dict().items() if key not in _DERIVED}
        config = type(config).from_dict(kept | dict(args))
        if hasattr(config, "vision_use_head"):  # SigLIP
            config.vision_use_head = False
        cls: Any = MODEL_MAPPING[type(config)]
        trunk: Any = cls(config)
    if isinstance(getattr(trunk, "pooler", None), nn.Module):
        trunk.pooler = None
    built: PreTrainedModel = trunk
    return built


def load_trunk(trunk: PreTrainedModel, state: Mapping[str, Tensor], where: str) -> None:
    """Copy published weights into a model of transformers, which translates the keys of its earlier versions.

    Raises:
        CheckpointError: they are of another model.
    """
    cls: Any = type(trunk)
    loaded, report = cls.from_pretrained(
        None,
        config=trunk.config,
        state_dict={key: value for key, value in state.items() if not key.startswith(_TEXT)},
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are told below, with the file
        dtype=torch.float32,
    )
    missing = sorted(key for key in report["missing_keys"] if not _unused(key))
    unexpected = sorted(key for key in report["unexpected_keys"] if not _unused(key))
    mismatched = sorted(str(key) for key in report["mismatched_keys"])
    if missing or unexpected or mismatched:
        raise CheckpointError(
            f"{where}: weights of another vision encoder than a {trunk.config.model_type} of these sizes: "
            f"missing {missing[:8]}, unexpected {unexpected[:8]}, of another size {mismatched[:8]}"
        )
    trunk.load_state_dict(
        {key: value for key, value in loaded.state_dict().items() if not _unused(key)}, strict=False
    )


_TEXT = ("text_model.", "text_projection.", "visual_projection.", "logit_scale", "logit_bias", "mask_token")


def _unused(key: str) -> bool:
    return key.startswith(_UNUSED) or any(f".{part}" in key for part in _UNUSED[:2]) or "mask_token" in key


def _preprocessing(
    settings: Mapping[str, Any], config: TrunkConfig, sizes: PreTrainedConfig
) -> Preprocessing:
    """What ``preprocessor_config.json`` says, CLIP's normalisation where there is none."""
    size = settings.get("crop_size") or settings.get("size") or {}
    side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge")
    native = getattr(sizes, "image_size", None)
    native = native[0] if isinstance(native, list | tuple) else native
    default = Preprocessing()
    mean, std = settings.get("image_mean", default.mean), settings.get("image_std", default.std)
    how = Resampling(settings.get("resample", Resampling.BICUBIC)).name.lower()
    return Preprocessing(
        config.img_size or side or native or default.image_size, tuple(mean), tuple(std), how
    )
