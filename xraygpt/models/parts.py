"""The parts of a report model in front of its language model, each chosen by one line of YAML, built from its
own configuration and handed to the model: a vision encoder and a bridge.

Shapes: B images, C channels; N tokens of width V from the encoder, Q tokens of width D from the bridge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from xraygpt.common.checkpoint import load_state, load_weights
from xraygpt.common.errors import DataError, UnknownNameError
from xraygpt.common.registry import registry
from xraygpt.processors import Preprocessing


class LayerNorm(nn.LayerNorm):
    """Layer norm (eps 1e-5) computed in float32 whatever the input's dtype, which the output has again."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
        return out.to(x.dtype)


@dataclass
class EncoderConfig:
    """Settings that every vision encoder has."""

    img_size: int | None = None
    """Side of the square input image in pixels; null: what the encoder was made for."""
    layer: int | None = None
    """Which block's output is taken, e.g. -2 for the last but one, as LLaVA does; null: the encoder's own
    output, final norm included."""
    class_tokens: bool = True
    """Whether class and register tokens stay in front of those of the patches."""
    drop_path_rate: float = 0.0
    """Stochastic depth of the last block; earlier blocks rise to it linearly from 0."""
    use_grad_checkpoint: bool = False
    """Recompute activations in the backward pass: less memory, more time."""

    def __post_init__(self) -> None:
        if self.img_size is not None and self.img_size < 1:
            raise ValueError(f"img_size must be at least 1, not {self.img_size}")
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate must be in [0, 1), not {self.drop_path_rate}")


class VisionEncoder(nn.Module):
    """Image (B, C, height, width) -> tokens (B, N, V).

    A subclass sets the attributes below, and registers itself: ``@registry.register_vision_encoder("mine")``
    makes it ``vit_model: mine``, or ``vit_model: mine:NAME`` if it takes a name.
    """

    config_class: ClassVar[type[EncoderConfig]] = EncoderConfig
    """The dataclass that ``model.vision`` is an instance of."""

    width: int
    """V."""
    num_tokens: int
    """N, those below included."""
    prefix_tokens: int
    """How many class and register tokens stand in front of those of the patches."""
    preprocessing: Preprocessing
    """What images it expects."""
    identity: str = ""
    """What checkpoints call it, e.g. "hf:dinov2" wherever the folder lies; empty: what ``vit_model`` says."""

    @classmethod
    def from_config(cls, config: Any, name: str) -> Self:
        """Build it with random weights; `config` is an instance of `config_class`, `name` what ``vit_model``
        says behind the colon, "" if there is none."""
        raise NotImplementedError

    @classmethod
    def preprocessing_of(cls, config: Any, name: str) -> Preprocessing:
        """What images such an encoder expects, found without building it; arguments as in `from_config`."""
        raise NotImplementedError

    @classmethod
    def check(cls, config: Any, name: str) -> None:
        """Raise ValueError if there can be no such encoder; called when a configuration is read."""

    @classmethod
    def own_weights(cls, name: str) -> str | None:
        """The weights that belong to `name`, where ``vit_ckpt`` names none."""
        return None

    def layers(self) -> Sequence[nn.Module]:
        """The blocks, first to last."""
        raise NotImplementedError

    def layers_to_output(self, name: str) -> int:
        """How far a parameter is from the output, in blocks: 1 in the last one, one more than there are at
        the input. What stands behind the blocks counts as the last block's."""
        layers = list(self.layers())
        numbers = {id(p): number for number, layer in enumerate(layers) for p in layer.parameters()}
        names, parameters = zip(*self.named_parameters(), strict=True)
        own, *later = (numbers.get(id(p)) for p in parameters[names.index(name) :])
        if own is not None:
            return len(layers) - own
        return 1 if all(number is None for number in later) else len(layers) + 1

    @property
    def network(self) -> nn.Module:
        """The module that an adapter is put into."""
        return self

    def without_effect(self) -> list[str]:
        """Return the linear layers of `network` whose output does not reach the tokens: those behind the
        block that `layer` names, and those whose weights are used without the layer being called."""
        outputs: dict[str, Tensor] = {}
        linear = [name for name, module in self.network.named_modules() if isinstance(module, nn.Linear)]
        handles = [
            self.network.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, name=name: outputs.__setitem__(name, output)
            )
            for name in linear
        ]
        side = self.preprocessing.image_size
        device = next(self.parameters()).device
        half = torch.autocast(device.type if device.type == "cuda" else "cpu", torch.bfloat16)
        try:
            with FakeTensorMode(allow_non_fake_inputs=True), torch.enable_grad(), half:
                tokens = self(torch.zeros(1, 3, side, side, device=device, requires_grad=True))
                reached = torch.autograd.grad(tokens.sum(), list(outputs.values()), allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
        effective = {name for name, grad in zip(outputs, reached, strict=True) if grad is not None}
        return [name for name in linear if name not in effective]

    def load(self, path: Path) -> None:
        """Load published weights, or those of an own training; CheckpointError for another encoder's."""
        load_state(self, self.translate_keys(load_weights(path)), where=str(path))

    def translate_keys(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of a published file -> keys of this module."""
        return dict(state)

    def published_state(self) -> dict[str, Tensor]:
        """The weights by the keys that they are published under."""
        return self.state_dict()

    def check_image(self, image: Tensor) -> None:
        """Raise DataError unless images (B, C, height, width) have the size that the encoder is built for."""
        check_size(image, (self.preprocessing.image_size,) * 2)


def check_size(image: Tensor, size: tuple[int, int]) -> None:
    """Raise DataError unless images (B, C, height, width) are of `size`, in pixels."""
    if tuple(image.shape[-2:]) != size:
        raise DataError(
            f"the vision encoder was built for images of {size[0]}x{size[1]} pixels and got "
            f"{image.shape[-2]}x{image.shape[-1]}; set image_size of the processor and img_size of the model "
            "to the same number"
        )


def encoder_class(vit_model: str) -> tuple[type[VisionEncoder], str]:
    """``KIND`` or ``KIND:NAME`` -> the class of this kind, and the name; ValueError for an unknown kind."""
    kind, _, name = vit_model.partition(":")
    try:
        return registry.get_vision_encoder_class(kind, VisionEncoder), name
    except UnknownNameError as error:
        raise ValueError(f"vit_model: {error}") from error


@dataclass
class BridgeConfig:
    """Settings of a bridge that has none in ``model.bridge_config``."""


class Bridge(nn.Module):
    """Tokens of the encoder (B, N, V) -> tokens (B, Q, D), which the projection takes to the language model.

    The model takes over the children and parameters of its bridge under their own names, since these are the
    keys of published checkpoints. A subclass registers itself: ``@registry.register_bridge("mine")``.
    """

    config_class: ClassVar[type[BridgeConfig]] = BridgeConfig
    """The dataclass that ``model.bridge_config`` is an instance of."""
    pretrained: ClassVar[bool] = False
    """Whether there are published weights of it, which ``model.q_former_model`` names. If not, a checkpoint
    has to hold it, and ``projection.pth`` does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        """D."""

    @classmethod
    def from_config(cls, model_config: Any, width: int, llm_width: int) -> Self:
        """Build it with random weights, for tokens of `width` V and a language model of `llm_width`.

        `model_config` is the section ``model``; its `bridge_config` is an instance of `config_class`.
        """
        raise NotImplementedError

    def num_tokens(self, count: int) -> int:
        """Q for N = `count`, prefix tokens included; raises ConfigError if it cannot take so many."""
        raise NotImplementedError

    def freeze(self, model_config: Any) -> None:
        """Exclude from training what the section ``model`` says stays as loaded."""

    def load(self, url_or_filename: str | Path) -> None:
        """Load published weights, where there are some (`pretrained`); raises CheckpointError."""
        raise NotImplementedError

    def export(self, folder: Path) -> None:
        """Write published parts that were trained, as files that their keys of the configuration read."""


def run_part(part: nn.Module, *inputs: Tensor) -> Tensor:
    """``part(*inputs)``, without keeping a graph where no gradient can pass."""
    passes = any(p.requires_grad for p in part.parameters()) or any(x.requires_grad for x in inputs)
    with torch.set_grad_enabled(torch.is_grad_enabled() and passes):
        return part(*inputs)


def recompute_activations(model: PreTrainedModel) -> None:
    """Let a model of transformers recompute its activations in the backward pass."""
    # Called gradient_checkpointing_enable before transformers 5.23.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
