from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from xraygpt.common.errors import ConfigError
from xraygpt.processors import (
    Blip2ImageEvalProcessor,
    Blip2ImageTrainProcessor,
    BlipCaptionProcessor,
    Preprocessing,
    load_processor,
)
from xraygpt.processors.base_processor import CLIP_MEAN, CLIP_STD


def picture(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def denormalised(tensor: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    return (tensor * std[:, None, None] + mean[:, None, None]) * 255


def test_eval_image_is_a_bicubic_resize_normalised_by_clip() -> None:
    image = picture()
    got = denormalised(Blip2ImageEvalProcessor(image_size=16)(image))
    want = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC), dtype=np.float32)
    assert got.shape == (3, 16, 16)
    np.testing.assert_allclose(got.permute(1, 2, 0).numpy(), want, atol=1e-3)


def test_train_image_is_a_random_crop_and_never_mirrored() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 240, 4, dtype=np.uint8), (60, 1)))  # brighter to the right
    processor = Blip2ImageTrainProcessor(image_size=8)
    images = [denormalised(processor(ramp)) for _ in range(20)]
    assert len({float(image.sum()) for image in images}) > 10
    assert all(bool((image[:, :, -1] > image[:, :, 0]).all()) for image in images)


def test_train_image_depends_on_torch_seed_only() -> None:
    processor = Blip2ImageTrainProcessor(image_size=8)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(processor(picture()))
    assert torch.equal(*results)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_tensor_is_bit_by_bit_what_three_channels_from_the_start_would_give(mode: str) -> None:
    image = picture(mode, (301, 203))
    crop = transforms.RandomResizedCrop(32, (0.5, 1.0), interpolation=transforms.InterpolationMode.BICUBIC)
    finish = transforms.Compose([transforms.ToTensor(), transforms.Normalize(CLIP_MEAN, CLIP_STD)])
    torch.manual_seed(7)
    want = finish(crop(image.convert("RGB")))
    torch.manual_seed(7)
    assert torch.equal(Blip2ImageTrainProcessor(image_size=32)(image), want)
    small = image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
    assert torch.equal(Blip2ImageEvalProcessor(image_size=32)(image), finish(small))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No acute disease.", "no acute disease"),
        ("  Leading and trailing   spaces  ", "leading and trailing spaces"),
        ("UPPER case: heart (size) normal; lungs clear!", "upper case heart size normal lungs clear"),
        ("multi\nline\n\ntext\n", "multi\nline text"),
        ("12.5 cm & 3/4 'single'", "12 5 cm & 3/4 'single'"),
        ("...!!!###", ""),
        ("word " * 60, " ".join(["word"] * 50)),
    ],
)
def test_blip_caption(text: str, expected: str) -> None:
    assert BlipCaptionProcessor()(text) == expected
    assert BlipCaptionProcessor(prompt="a film of ")(text) == "a film of " + expected


def test_identity_keeps_the_report() -> None:
    assert load_processor("identity")("Heart: NORMAL.\n") == "Heart: NORMAL.\n"


def test_settings_are_checked() -> None:
    processor = load_processor("blip2_image_eval", {"name": "blip2_image_eval", "image_size": 20})
    assert processor(picture()).shape == (3, 20, 20)
    with pytest.raises(ConfigError, match="image_size"):
        load_processor("blip2_image_eval", {"imagesize": 20})
    with pytest.raises(ConfigError, match="min_scale"):
        load_processor("blip2_image_train", {"min_scale": 2.0})
    with pytest.raises(ConfigError, match="max_words"):
        load_processor("blip_caption", {"max_words": 0})


@pytest.mark.parametrize("name", ["blip2_image_train", "blip2_image_eval"])
def test_what_a_configuration_leaves_out_is_the_encoders(name: str) -> None:
    encoder = Preprocessing(12, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
    processor = load_processor(name, {"name": name}, encoder)
    assert processor(picture()).shape == (3, 12, 12)
    assert processor.normalize.mean == encoder.mean
    assert processor.normalize.std == encoder.std
    assert processor.transform.transforms[0].interpolation.value == "bilinear"


def test_what_a_configuration_says_goes_before_the_encoder() -> None:
    encoder = Preprocessing(12, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
    node = {"image_size": 8, "mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "nearest"}
    processor = load_processor("blip2_image_eval", node, encoder)
    want = np.asarray(picture().resize((8, 8), Image.Resampling.NEAREST), dtype=np.float32) / 255
    np.testing.assert_allclose(processor(picture()).permute(1, 2, 0).numpy(), want, atol=1e-6)


def test_without_an_encoder_it_is_clip_at_224() -> None:
    processor = load_processor("blip2_image_eval")
    assert processor(picture()).shape == (3, 224, 224)
    assert processor.normalize.mean == CLIP_MEAN


def test_an_encoder_says_nothing_about_texts() -> None:
    assert load_processor("blip_caption", {"max_words": 1}, Preprocessing(8))("A b") == "a"
