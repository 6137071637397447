"""The image and caption processors of BLIP and BLIP-2 (LAVIS, `lavis/processors/blip_processors.py`).

Shapes: an image goes in as a PIL image of any mode and size and comes out as a float32 tensor (3, S, S),
normalised; size, mean, standard deviation and interpolation are the vision encoder's unless they are set.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms.functional import InterpolationMode

from xraygpt.common.image_modes import to_8_bit
from xraygpt.common.registry import registry
from xraygpt.processors.base_processor import CLIP_MEAN, CLIP_STD, BaseProcessor

# A JPEG may be decoded at a fraction of its size. Twice the target leaves the final resize enough to average
# over, so that the result differs from a full decode by a grey level or so.
DECODE_MARGIN = 2.0


@dataclass
class BlipCaptionConfig:
    """Settings of `blip_caption`."""

    prompt: str = ""
    """Text put in front of every caption."""
    max_words: int = 50
    """Words kept of a caption."""

    def __post_init__(self) -> None:
        if self.max_words < 1:
            raise ValueError(f"max_words must be at least 1, not {self.max_words}")


@dataclass
class Blip2ImageEvalConfig:
    """Settings of `blip2_image_eval`; what is left out is the vision encoder's (`Preprocessing`)."""

    image_size: int | None = None
    """Side of the square image in pixels."""
    mean: list[float] | None = None
    """Mean of each colour channel, 0-1."""
    std: list[float] | None = None
    """Standard deviation of each colour channel, 0-1."""
    interpolation: Literal["bicubic", "bilinear", "lanczos", "nearest"] | None = None
    """How images are resized."""

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size must be at least 1, not {self.image_size}")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != 3:
                raise ValueError(f"{key} needs 3 numbers, one for each colour channel, not {len(values)}")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be positive, not {self.std}")


@dataclass
class Blip2ImageTrainConfig(Blip2ImageEvalConfig):
    """Settings of `blip2_image_train`."""

    min_scale: float = 0.5
    """Smallest part of the image's area that a random crop keeps."""
    max_scale: float = 1.0
    """Largest part of the image's area that a random crop keeps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.min_scale <= self.max_scale <= 1:
            raise ValueError(
                f"0 < min_scale <= max_scale <= 1 must hold, not {self.min_scale} and {self.max_scale}"
            )


def three_channels(image: Tensor) -> Tensor:
    """Repeat the channel of a grey image, (1, H, W) -> (3, H, W).

    Done after the resize, which gives the same pixels as three equal channels would, in a third of the time.
    """
    return image.expand(3, -1, -1)


class BlipImageBaseProcessor(BaseProcessor):
    """Holds the normalisation; the base class leaves the image as it is."""

    transform: transforms.Compose | None = None

    def __init__(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> None:
        self.normalize = transforms.Normalize(tuple(mean or CLIP_MEAN), tuple(std or CLIP_STD))

    def __call__(self, item: Image.Image) -> Any:
        return item if self.transform is None else self.transform(to_8_bit(item))

    def _finish(self, resize: Callable[[Image.Image], Image.Image]) -> None:
        """Set `transform`: first `resize`, then to a normalised tensor of three channels."""
        self.transform = transforms.Compose([resize, transforms.ToTensor(), three_channels, self.normalize])


@registry.register_processor("blip2_image_eval")
class Blip2ImageEvalProcessor(BlipImageBaseProcessor):
    """Resizes to a square (the aspect ratio is not kept), bicubic with anti-aliasing, and normalises."""

    config_class: ClassVar[type] = Blip2ImageEvalConfig

    def __init__(
        self,
        image_size: int = 224,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        interpolation: str = "bicubic",
    ) -> None:
        super().__init__(mean=mean, std=std)
        self.decode_size = math.ceil(DECODE_MARGIN * image_size)
        size = (image_size, image_size)
        self._finish(transforms.Resize(size, interpolation=InterpolationMode(interpolation)))


@registry.register_processor("blip2_image_train")
class Blip2ImageTrainProcessor(BlipImageBaseProcessor):
    """Takes a random crop of `min_scale` to `max_scale` of the area, resizes it to a square and normalises.

    Never mirrors: the side of a finding is part of the report.
    """

    config_class: ClassVar[type] = Blip2ImageTrainConfig

    def __init__(
        self,
        image_size: int = 224,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        min_scale: float = 0.5,
        max_scale: float = 1.0,
        interpolation: str = "bicubic",
    ) -> None:
        super().__init__(mean=mean, std=std)
        self.decode_size = math.ceil(DECODE_MARGIN * image_size / math.sqrt(min_scale))
        scale, mode = (min_scale, max_scale), InterpolationMode(interpolation)
        self._finish(transforms.RandomResizedCrop(image_size, scale=scale, interpolation=mode))


@registry.register_processor("blip_caption")
class BlipCaptionProcessor(BaseProcessor):
    """Lower-cases a caption, turns ``.!"()*#:;~`` into spaces and cuts it at `max_words` words."""

    config_class: ClassVar[type] = BlipCaptionConfig

    def __init__(self, prompt: str = "", max_words: int = 50) -> None:
        self.prompt = prompt
        self.max_words = max_words

    def __call__(self, item: Any) -> str:
        return self.prompt + self.pre_caption(item)

    def pre_caption(self, caption: str) -> str:
        """Return the cleaned caption without the prompt."""
        text = re.sub(r"[.!\"()*#:;~]", " ", caption.lower())
        text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
        return " ".join(text.split(" ")[: self.max_words])
