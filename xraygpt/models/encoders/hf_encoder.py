"""Vision models of transformers: ``vit_model: hf:FOLDER_OR_ID``, that of a folder in Hugging Face's format
(Dinov2, SigLIP, the vision half of CLIP, ViT, Swin), and ``medclip``, which XrayGPT's paper names.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.Image import Resampling
from timm.layers.helpers import to_2tuple
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel, SwinConfig

from xraygpt.common.checkpoint import load_state, load_weights
from xraygpt.common.errors import CheckpointError, ConfigError
from xraygpt.common.hf_folder import fetched, from_folder, misfit, read_settings
from xraygpt.common.paths import HUB_PREFIX, require_file, resolve_path
from xraygpt.common.registry import registry
from xraygpt.models.encoders.trunk import TrunkConfig, TrunkEncoder
from xraygpt.models.key_translation import unwrapped
from xraygpt.models.parts import recompute_activations
from xraygpt.processors import Preprocessing

SOURCE = "a folder in Hugging Face's format with config.json and the weights of a vision model"
_DERIVED = ("stage_names", "out_features", "out_indices")
"""Keys of a configuration that follow from the number of stages."""
_UNUSED = (
    r"^(text_model\.|text_projection\.|visual_projection\.|logit_scale|logit_bias|classifier\.)"
    r"|(^|\.)(pooler|head)\.|mask_token|(position_ids|relative_position_index)$"
)
"""Keys of what belongs to texts, makes one answer of all tokens, serves training, or follows from sizes."""
_PROJECTION = "projection_head.weight"


@registry.register_vision_encoder("hf")
class HFEncoder(TrunkEncoder):
    """A vision model of transformers; `vision.args` replace keys of its ``config.json``."""

    kind = "hf"
    trunk: PreTrainedModel

    def __init__(
        self, trunk: PreTrainedModel, config: TrunkConfig, preprocessing: Preprocessing, label: str
    ) -> None:
        asked = inspect.signature(trunk.forward).parameters
        self.resizes = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in asked else {}
        super().__init__(trunk, config, preprocessing, label)
        self.identity = f"hf:{trunk.config.model_type}"

    @classmethod
    def check(cls, config: Any, name: str) -> None:
        if not name:
            raise ValueError("vit_model: hf: needs a folder or an id behind the colon, hf:FOLDER_OR_ID")

    @classmethod
    def own_weights(cls, name: str) -> str | None:
        return _repository(name) or name

    @classmethod
    def preprocessing_of(cls, config: Any, name: str) -> Preprocessing:
        """What ``preprocessor_config.json`` says, CLIP's normalisation where there is none."""
        said = read_settings(vision_folder(name) / "preprocessor_config.json")
        size = said.get("crop_size") or said.get("size") or {}
        side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge")
        native, _ = to_2tuple(getattr(cls.trunk_config(config, name), "image_size", None))
        default = Preprocessing()
        return Preprocessing(
            config.img_size or side or native or default.image_size,
            tuple(said.get("image_mean", default.mean)),
            tuple(said.get("image_std", default.std)),
            Resampling(said.get("resample", Resampling.BICUBIC)).name.lower(),
        )

    @classmethod
    def trunk_config(cls, config: Any, name: str) -> PreTrainedConfig:
        """The sizes of the vision model, or vision half, in a folder; ConfigError if it reads no images."""
        folder = vision_folder(name)
        what = "the configuration of a vision encoder"
        require_file(folder / "config.json", what, SOURCE, "model.vit_model")
        sizes: PreTrainedConfig = from_folder(AutoConfig, folder, "its configuration")
        sizes = getattr(sizes, "vision_config", sizes)
        if type(sizes) not in MODEL_MAPPING or not hasattr(sizes, "num_channels"):
            kind = sizes.model_type
            raise ConfigError(f"model.vit_model: {folder} holds a {kind}, which is no vision model")
        return sizes

    @classmethod
    def build_trunk(cls, config: Any, name: str, side: int) -> Any:
        sizes = cls.trunk_config(config, name)
        if unknown := sorted(set(config.args) - set(sizes.to_dict())):
            raise ConfigError(f"model.vision.args: {', '.join(unknown)}: no keys of a {sizes.model_type}")
        args = config.args
        if config.drop_path_rate > 0:
            if not hasattr(sizes, "drop_path_rate"):
                raise ConfigError(
                    f"model.vision.drop_path_rate: a {sizes.model_type} of transformers has none"
                )
            args = {"drop_path_rate": config.drop_path_rate} | args
        kept = {key: value for key, value in sizes.to_diff_dict().items() if key not in _DERIVED}
        sizes = type(sizes).from_dict(kept | args)
        if hasattr(sizes, "vision_use_head"):  # SigLIP
            sizes.vision_use_head = False
        model_class: Any = MODEL_MAPPING[type(sizes)]
        trunk: Any = model_class(sizes)
        if isinstance(getattr(trunk, "pooler", None), nn.Module):
            trunk.pooler = None
        if config.use_grad_checkpoint:
            recompute_activations(trunk)
        return trunk

    def run_trunk(self, image: Tensor) -> Any:
        return self.trunk(pixel_values=image, **self.resizes)

    def load_trunk(self, state: Mapping[str, Tensor], where: str) -> None:
        """Copy published weights into the trunk; transformers translates the keys of its earlier versions."""
        model_class: Any = type(self.trunk)
        loaded, report = model_class.from_pretrained(
            None,
            config=self.trunk.config,
            state_dict={key: value for key, value in state.items() if not re.search(_UNUSED, key)},
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, with the file
            dtype=torch.float32,
        )
        if problems := misfit(report, _UNUSED):
            raise CheckpointError(
                f"{where}: weights of another vision encoder than a {self.trunk.config.model_type} of these "
                f"sizes: {problems}"
            )
        # The trunk has no pooler, `loaded` may.
        self.trunk.load_state_dict(loaded.state_dict(), strict=False)


@dataclass
class MedClipConfig(TrunkConfig):
    """Settings of MedCLIP's Swin; `args` replace sizes of Swin-T, e.g. {embed_dim: 32, depths: [1, 1]}."""

    output: Literal["tokens", "projection"] = "tokens"
    """Swin's tokens (49 of width 768), or their mean in the space it shares with texts (1 of width 512)."""
    projection_dim: int = 512
    """Width of that space."""


@registry.register_vision_encoder("medclip")
class MedClipEncoder(HFEncoder):
    """The vision half of MedCLIP-ViT: Swin-T and, if asked for, the projection behind the mean of the tokens.

    Source: Wang et al., "MedCLIP" (2022); sizes, normalisation and keys after its published code and weights.
    """

    config_class = MedClipConfig
    kind = "medclip"

    def __init__(
        self, trunk: PreTrainedModel, config: MedClipConfig, preprocessing: Preprocessing, label: str
    ) -> None:
        super().__init__(trunk, config, preprocessing, label)
        self.identity = label
        self.projection_head: nn.Linear | None = None
        if config.output == "projection":
            self.projection_head = nn.Linear(self.width, config.projection_dim, bias=False)
            self.width, self.num_tokens = config.projection_dim, 1

    @classmethod
    def check(cls, config: Any, name: str) -> None:
        if name:
            raise ValueError(f"vit_model: there is one medclip, so nothing can follow it (not {name!r})")

    @classmethod
    def own_weights(cls, name: str) -> str | None:
        return None

    @classmethod
    def preprocessing_of(cls, config: Any, name: str) -> Preprocessing:
        mean, std = 0.5862785803043838, 0.27950088968644304  # of the grey values that it was trained with
        return Preprocessing(config.img_size or 224, (mean,) * 3, (std,) * 3)

    @classmethod
    def trunk_config(cls, config: Any, name: str) -> PreTrainedConfig:
        return SwinConfig(image_size=config.img_size or 224, drop_path_rate=config.drop_path_rate)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, N, V)."""
        tokens = super().forward(image)
        return tokens if self.projection_head is None else self.projection_head(tokens.mean(1, keepdim=True))

    def load(self, path: Path) -> None:
        """Load MedCLIP's ``pytorch_model.bin``, both halves or the vision half alone."""
        state = unwrapped(load_weights(path), "visual_encoder.", "vision_model.")
        head = {"weight": state.pop(_PROJECTION)} if _PROJECTION in state else {}
        self.load_trunk(self.trunk_keys(unwrapped(state, "model.")), str(path))
        if self.projection_head is not None:
            load_state(self.projection_head, head, where=f"{path} ({_PROJECTION})")

    def published_state(self) -> dict[str, Tensor]:
        head = {} if self.projection_head is None else {_PROJECTION: self.projection_head.weight}
        return {f"model.{key}": value for key, value in self.trunk.state_dict().items()} | head


def vision_folder(name: str) -> Path:
    """The folder of a vision model: one on this machine, or an id of the hub, fetched if need be."""
    if repository := _repository(name):
        return fetched(repository, "model.vit_model")
    return require_file(name, "a vision encoder", SOURCE, "model.vit_model")


def _repository(name: str) -> str | None:
    """``hf://owner/repository`` for such a name, and for ``owner/repository`` that is no folder here."""
    plain = name.removeprefix(HUB_PREFIX)
    if plain.count("/") != 1 or plain.startswith((".", "/", "~")):
        return None
    is_folder = name == plain and Path(str(resolve_path(name))).exists()
    return None if is_folder else HUB_PREFIX + plain
