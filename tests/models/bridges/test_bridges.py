"""Bridges: shapes, what published projectors become, and models with them against Hugging Face's LLaVA."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from tests.models.tiny import VISION_SIZES, tiny_config
from xraygpt.common.config import build_typed
from xraygpt.common.errors import CheckpointError, ConfigError
from xraygpt.common.generation import GenerationConfig
from xraygpt.models.bridges.mlp import LinearBridge, LinearConfig, MLPBridge, MLPConfig
from xraygpt.models.key_translation import translate_projector_keys
from xraygpt.models.llm import load_llm, load_tokenizer
from xraygpt.models.mini_gpt4 import MiniGPT4, MiniGPT4Config

PROMPT = "<Img><ImageHere></Img> Describe this chest x-ray."


def model_of(folder: Path, **section: Any) -> MiniGPT4:
    """A random model on the language model in `folder`."""
    plain = {"llama_model": str(folder), "max_txt_len": 40, "end_sym": "###", "vit_ckpt": None}
    plain |= {"prompt": PROMPT, "prompt_template": "", "vit_precision": "fp32"}
    config = build_typed(MiniGPT4Config, plain | section, where="model")
    torch.manual_seed(1)
    model = MiniGPT4.build(config, llm=load_llm(folder, "fp32"), tokenizer=load_tokenizer(folder))
    return model.eval()


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**VISION_SIZES)).save_pretrained(str(tmp_path / "clip"))
    return tmp_path / "clip"


def test_neighbours_are_merged_as_minigpt_v2_does() -> None:
    bridge = LinearBridge(LinearConfig(merge=4), width=3, llm_width=7)
    tokens = torch.arange(2 * 8 * 3.0).view(2, 8, 3)
    assert bridge.width == 12
    assert bridge.num_tokens(8) == 2
    assert torch.equal(bridge(tokens), tokens.reshape(2, 2, 12))
    with pytest.raises(ConfigError, match=r"merge 4 does not divide the 9 tokens.*class_tokens"):
        bridge.num_tokens(9)


def test_an_mlp_and_its_projection_are_llavas_layers() -> None:
    bridge = MLPBridge(MLPConfig(depth=4), width=5, llm_width=7)
    shapes = [tuple(layer.weight.shape) for layer in bridge.bridge_mlp if isinstance(layer, nn.Linear)]
    assert shapes == [(7, 5), (7, 7), (7, 7)]
    assert bridge(torch.zeros(2, 9, 5)).shape == (2, 9, 7)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["mm_projector.weight", "mm_projector.bias"], ["llama_proj.weight", "llama_proj.bias"]),
        (
            ["model.mm_projector.0.weight", "model.mm_projector.2.weight"],
            ["bridge_mlp.0.weight", "llama_proj.weight"],
        ),
        (
            ["model.multi_modal_projector.linear_1.bias", "model.multi_modal_projector.linear_2.bias"],
            ["bridge_mlp.0.bias", "llama_proj.bias"],
        ),
        (
            [f"multi_modal_projector.layers.{number}.weight" for number in (0, 2, 4, 6)],
            [*(f"bridge_mlp.{number}.weight" for number in (0, 2, 4)), "llama_proj.weight"],
        ),
    ],
)
def test_keys_of_published_projectors(theirs: list[str], ours: list[str]) -> None:
    values = {key: torch.tensor(float(number)) for number, key in enumerate(theirs)}
    found = translate_projector_keys(values | {"model.layers.0.weight": torch.zeros(())})
    assert {key: float(value) for key, value in found.items()} == dict(
        zip(ours, range(len(ours)), strict=True)
    )


@pytest.mark.parametrize(
    ("bridge", "settings"), [("linear", {}), ("linear", {"merge": 4}), ("mlp", {"depth": 3})]
)
def test_a_model_with_any_bridge_learns_writes_and_travels(
    bridge: str, settings: dict[str, Any], llm_folder: Path, clip_folder: Path, tmp_path: Path
) -> None:
    vision = {"class_tokens": False}
    section = {"vit_model": f"hf:{clip_folder}", "vit_ckpt": str(clip_folder), "vision": vision}
    section |= {"bridge": bridge, "bridge_config": settings}
    model = model_of(llm_folder, **section)
    model.load_pretrained(model.config)
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"llama_proj"} | ({"bridge_mlp"} if bridge == "mlp" else set())
    samples = {"image": torch.randn(2, 3, 32, 32), "caption": ["The heart is normal.", "Clear lungs."]}
    loss = model(samples)["loss"]
    loss.backward()
    assert model.llama_proj.weight.grad is not None
    assert model.encode_img(samples["image"])[0].shape == (2, 16 // settings.get("merge", 1), 32)
    assert len(model.generate(samples, GenerationConfig(max_new_tokens=3))) == 2
    model.export(tmp_path / "out")
    again = model_of(llm_folder, **section, ckpt=str(tmp_path / "out" / "projection.pth"))
    again.load_pretrained(again.config)
    torch.testing.assert_close(again(samples)["loss"], loss)


def test_a_bridge_that_does_not_fit_a_checkpoint_is_one_error(
    llm_folder: Path, clip_folder: Path, tmp_path: Path
) -> None:
    section = {"vit_model": f"hf:{clip_folder}", "vit_ckpt": str(clip_folder), "bridge": "mlp"}
    model = model_of(llm_folder, **section)
    file = tmp_path / "trained.pth"
    torch.save({"model": model.state_dict(), "manifest": model.manifest()}, file)
    linear = model_of(llm_folder, **section | {"bridge": "linear"})
    with pytest.raises(CheckpointError, match=r"trained\.pth.*model\.bridge: mlp.*linear"):
        linear.load_checkpoint(file)
    torch.save({"model": {k: v for k, v in model.state_dict().items() if k.startswith("llama_proj")}}, file)
    other = model_of(llm_folder, **section, ckpt=str(file))
    with pytest.raises(CheckpointError, match=r"trained\.pth.*holds no bridge_mlp"):
        other.load_pretrained(other.config)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"bridge": "qformr"}, r"model\.bridge: .*qformer"),
        ({"bridge": "mlp", "bridge_config": {"depth": 1}}, r"model\.bridge_config\.depth"),
        ({"bridge": "mlp", "bridge_config": {"dept": 3}}, r"model\.bridge_config\.dept: unknown key.*depth"),
        ({"bridge_config": {"merge": 3}}, r"model\.bridge_config\.merge: unknown key"),
        ({"vit_model": "medclip"}, r"model\.vit_ckpt: .*must name the weights of medclip"),
    ],
)
def test_settings_of_no_use_are_refused_with_their_key(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_typed(MiniGPT4Config, section, where="model")


def llava_twin(llm: LlamaConfig, image_token: int) -> LlavaForConditionalGeneration:
    vision = CLIPVisionConfig(**VISION_SIZES)
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=llm.to_dict(),
        image_token_id=image_token,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
    )
    torch.manual_seed(4)
    return LlavaForConditionalGeneration(config).eval()


def test_a_model_with_an_mlp_is_llava(llm_folder: Path, tmp_path: Path) -> None:
    """The same encoder, projector and language model: equal embeddings of the image and equal logits."""
    llm = load_llm(llm_folder, "fp32")
    theirs: Any = llava_twin(llm.config, image_token=5)
    theirs.model.language_model.load_state_dict(llm.model.state_dict())
    theirs.lm_head.load_state_dict(llm.lm_head.state_dict())
    theirs.model.vision_tower.save_pretrained(str(tmp_path / "clip"))
    projector = {
        f"multi_modal_projector.{k}": v for k, v in theirs.model.multi_modal_projector.state_dict().items()
    }
    torch.save(projector, tmp_path / "projector.pth")
    model = model_of(
        llm_folder,
        vit_model=f"hf:{tmp_path / 'clip'}",
        vit_ckpt=str(tmp_path / "clip"),
        vision={"layer": -2, "class_tokens": False},
        bridge="mlp",
        ckpt=str(tmp_path / "projector.pth"),
    )
    model.load_pretrained(model.config)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        own = model.encode_img(image)[0][0]
        found: Any = theirs.get_image_features(pixel_values=image)
        expected: Tensor = getattr(found, "pooler_output", found)[0]
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-5)
        embeds, mask = model.embed_prompt([PROMPT], [own])
        before, after = (
            model.llama_tokenizer(t, add_special_tokens=False).input_ids for t in PROMPT.split("<ImageHere>")
        )
        ids = torch.tensor([[model.llama_tokenizer.bos_token_id, *before, *[5] * len(own), *after]])
        logits = model.llama_model(inputs_embeds=embeds, attention_mask=mask).logits
        other = theirs(input_ids=ids, pixel_values=image).logits
        torch.testing.assert_close(logits, other, rtol=1e-5, atol=1e-5)


def test_a_q_former_model_is_as_it_was() -> None:
    config = tiny_config()
    assert (config.bridge, config.vit_model) == ("qformer", "eva_clip_g")
