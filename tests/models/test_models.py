"""Models by name."""

import pytest
import torch
from PIL import Image

from xraygpt.common.errors import MissingFileError, UnknownNameError
from xraygpt.common.registry import registry
from xraygpt.models import (
    GenerationConfig,
    MiniGPT4,
    load_model,
    load_model_and_preprocess,
    load_preprocess,
    model_zoo,
)
from xraygpt.models.mini_gpt4 import MiniGPT4Config


def test_the_zoo_lists_architectures_and_types() -> None:
    assert dict(model_zoo)["mini_gpt4"] == ["pretrain_vicuna", "tiny"]
    assert {"causal_lm", "vit_classifier"} <= set(dict(model_zoo))
    assert len(model_zoo) == sum(len(types) for _, types in model_zoo)
    assert "mini_gpt4" in str(model_zoo)


SHIPPED = [name for name, types in model_zoo if "tiny" in types]


def test_every_tiny_type_is_loaded_below() -> None:
    assert {"blip2", "blip_caption", "blip_pretrain", "mini_gpt4"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_types_whose_files_come_with_the_package_are_loaded(name: str) -> None:
    model = load_model(name, "tiny", is_eval=True)
    assert isinstance(model, registry.get_model_class(name))
    assert not model.training


def test_a_language_model_may_sample_from_several_beams() -> None:
    model = load_model("mini_gpt4", "tiny", is_eval=True)
    torch.manual_seed(0)
    settings = GenerationConfig(max_new_tokens=2, num_beams=3, do_sample=True)
    assert len(model.generate({"image": torch.zeros(1, 3, 64, 64)}, settings)) == 1


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="mini_gpt4"):
        load_model("mini_gpt5", "tiny")
    with pytest.raises(UnknownNameError, match="pretrain_vicuna"):
        load_model("mini_gpt4", "pretrain_vicunia")


def test_the_full_size_model_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.chdir(str(tmp_path))
    with pytest.raises(MissingFileError) as caught:
        load_model_and_preprocess("mini_gpt4", "pretrain_vicuna")
    for key in ("model.vit_ckpt", "model.q_former_model", "model.llama_model"):
        assert key in str(caught.value)


def test_processors_of_a_section() -> None:
    section = {"vis_processor": {"eval": {"name": "blip2_image_eval", "image_size": 32}}}
    images, texts = load_preprocess(section)
    assert images["eval"](Image.new("RGB", (50, 40))).shape == (3, 32, 32)
    assert texts["train"]("Kept, as it is.") == "Kept, as it is."
    item = torch.ones(1)
    assert images["train"](item) is item


def test_the_device_decides_and_the_defaults_of_the_type_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def build(cls: type[MiniGPT4], cfg: MiniGPT4Config, device: str = "") -> torch.nn.Module:
        asked.extend([cfg.vision.embed_dim, device])
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr(MiniGPT4, "from_config", classmethod(build))
    model, images, _ = load_model_and_preprocess("mini_gpt4", "tiny", is_eval=True, device="meta")
    assert asked == [MiniGPT4.default_config("tiny")["model"]["vision"]["embed_dim"], "meta"]
    assert next(model.parameters()).device.type == "meta"
    assert not model.training
    assert images["eval"](Image.new("L", (90, 70))).shape == (3, 64, 64)
