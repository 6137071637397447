"""Cases of the image and caption processors."""

from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from tests.parity.golden import Array, Case
from xraygpt.processors import Blip2ImageEvalProcessor, Blip2ImageTrainProcessor, BlipCaptionProcessor


def run(case: Case) -> None:
    images = {name: _open(case, given["file"]) for name, given in case.values["image_files"].items()}
    _evaluation(case, images)
    _training(case, images)
    _captions(case)
    default = Blip2ImageEvalProcessor.from_config({})
    recorded = case.values["eval_defaults"]
    for field in ("mean", "std"):
        case.comparison.exact(
            f"eval_defaults {field}", list(getattr(default.normalize, field)), recorded[field]
        )
    size = list(default(images["gray"]).shape[1:])
    case.comparison.exact("eval_defaults size", size, recorded["size"])
    _crop_settings(case)


def _open(case: Case, name: str) -> Image.Image:
    with Image.open(case.folder / name) as opened:
        return opened.copy()


def _evaluation(case: Case, images: dict[str, Image.Image]) -> None:
    check = case.comparison
    process = Blip2ImageEvalProcessor.from_config(case.constructor["eval"])
    for name, image in images.items():
        tensor = process(image)
        check.optional(f"eval_{name}", tensor)
        if image.mode == "L":
            check.mended("eval_on_mode_L_without_convert", tensor, "Grey images")
        if f"resized_uint8_{name}" in case.outputs:
            check.output(f"resized_uint8_{name}", _pixels(tensor, process.normalize))
    process = Blip2ImageEvalProcessor.from_config(case.constructor["eval_custom"])
    _thinned(case, "eval_custom_rgb", process(images["rgb"]))


def _pixels(tensor: torch.Tensor, normalize: transforms.Normalize) -> Array:
    """The 8-bit picture (H, W, 3) behind a normalised tensor."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (normalize.mean, normalize.std))
    pixels: Array = ((tensor * std + mean) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
    return pixels


def _thinned(case: Case, name: str, tensor: torch.Tensor) -> None:
    """Compare with a record of every n-th pixel only."""
    if name in case.outputs:
        step = -(-tensor.shape[-1] // case.outputs[name]["shape"][-1])
        case.comparison.output(name, tensor[:, ::step, ::step])


def _training(case: Case, images: dict[str, Image.Image]) -> None:
    process = Blip2ImageTrainProcessor.from_config(case.constructor["train"])
    box = tuple(case.values["train_fixed_box_ijhw"])
    with patch.object(transforms.RandomResizedCrop, "get_params", staticmethod(lambda *_: box)):
        for name, image in images.items():
            case.comparison.optional(f"train_fixed_{name}", process(image))
    drawn = case.values["train_sampled_boxes_ijhw"]
    torch.manual_seed(drawn["torch_manual_seed"])
    _thinned(case, "train_sampled_rgb", process(images["rgb"]))
    crop = _crop(process)
    for name, boxes in drawn["draws"].items():
        torch.manual_seed(drawn["torch_manual_seed"])
        got = [list(crop.get_params(images[name], list(crop.scale), list(crop.ratio))) for _ in boxes]
        case.comparison.exact(f"draws of {name}", got, boxes)


def _crop(process: Blip2ImageTrainProcessor) -> transforms.RandomResizedCrop:
    return next(t for t in process.transform.transforms if isinstance(t, transforms.RandomResizedCrop))


def _crop_settings(case: Case) -> None:
    """How the settings of the training processor reach the crop."""
    recorded = case.values["train_from_config"]
    low, high = recorded["scale"]
    settings = {"image_size": recorded["size"][0], "min_scale": low, "max_scale": high}
    crop = _crop(Blip2ImageTrainProcessor.from_config(settings))
    own = {name: list(getattr(crop, name)) for name in recorded}
    case.comparison.exact("train_from_config", own, recorded)


def _captions(case: Case) -> None:
    """Every caption with every setting: ``caption_<kind>`` in the constructor is ``<kind>`` in the values."""
    for name in [name for name in case.constructor if name.startswith("caption")]:
        kind = name.removeprefix("caption").removeprefix("_") or "default"
        process = BlipCaptionProcessor.from_config(case.constructor[name])
        for given in case.values["captions"]:
            case.comparison.exact(f"{kind} of {given['input'][:40]!r}", process(given["input"]), given[kind])
