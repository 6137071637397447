"""Vision encoders of other libraries against these libraries themselves, with the same random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTModel,
)

from tests.models.tiny import VISION_SIZES as SIZES
from xraygpt.common.config import build_typed
from xraygpt.common.errors import CheckpointError, ConfigError, DataError, MissingFileError
from xraygpt.models import vision_tower
from xraygpt.models.encoders.trunk import TrunkConfig, TrunkEncoder
from xraygpt.models.parts import VisionEncoder
from xraygpt.models.vision_tower import VisionTower, VisionTowerConfig, build_encoder
from xraygpt.processors import Preprocessing

VIT: dict[str, Any] = {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8}
SWIN: dict[str, Any] = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
FOLDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SIZES)),
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**SIZES)),
    "clip": lambda: CLIPModel(CLIPConfig(vision_config=CLIPVisionConfig(**SIZES).to_dict())),
    "vit": lambda: ViTModel(ViTConfig(**SIZES)),
    "swin": lambda: SwinModel(SwinConfig(image_size=32, patch_size=4, **SWIN)),
}


def config(**section: Any) -> VisionTowerConfig:
    return build_typed(VisionTowerConfig, section, where="model")


def encoder(**section: Any) -> VisionEncoder:
    torch.manual_seed(0)
    return build_encoder(config(**section)).eval()


def loaded(**section: Any) -> VisionEncoder:
    cfg = config(**section)
    tower = VisionTower(cfg, build_encoder(cfg)).eval()
    tower.load_vision_encoder(str(cfg.vit_ckpt))
    return tower.visual_encoder


def image(side: int = 32) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def vit_args() -> dict[str, Any]:
    return {"embed_dim": 24, "depth": 3, "num_heads": 2, "patch_size": 8}


# transformers


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_of_hugging_face_gives_its_own_tokens(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = FOLDERS[kind]().eval()
    for parameter in theirs.parameters():  # fresh norms are ones and zeros, loaded or not
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(str(tmp_path))
    own = loaded(vit_model=f"hf:{tmp_path}", vit_ckpt=str(tmp_path))
    twin: Any = theirs.vision_model if kind == "clip" else theirs
    with torch.no_grad():
        expected = twin(pixel_values=image()).last_hidden_state
        close(own(image()), expected)
    assert (own.num_tokens, own.width) == tuple(expected.shape[1:])
    assert own.prefix_tokens == {"dinov2": 1, "clip": 1, "vit": 1}.get(kind, 0)


def test_another_layer_without_class_token_is_what_llava_takes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs: Any = FOLDERS["clip"]().eval()
    theirs.save_pretrained(str(tmp_path))
    vision = {"layer": -2, "class_tokens": False}
    own = loaded(vit_model=f"hf:{tmp_path}", vit_ckpt=str(tmp_path), vision=vision)
    with torch.no_grad():
        states = theirs.vision_model(pixel_values=image(), output_hidden_states=True).hidden_states
        close(own(image()), states[-2][:, 1:])
    assert (own.num_tokens, own.prefix_tokens) == (16, 0)


def test_positions_are_resized_for_another_image_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs: Any = FOLDERS["vit"]().eval()
    theirs.save_pretrained(str(tmp_path))
    own = loaded(vit_model=f"hf:{tmp_path}", vit_ckpt=str(tmp_path), img_size=48)
    with torch.no_grad():
        expected = theirs(pixel_values=image(48), interpolate_pos_encoding=True).last_hidden_state
        close(own(image(48)), expected)
    assert own.preprocessing.image_size == 48


def test_images_are_prepared_as_the_folder_says(tmp_path: Path) -> None:
    FOLDERS["siglip"]().save_pretrained(str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text(
        '{"size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.5, 0.5], '
        '"image_std": [0.5, 0.5, 0.5], "resample": 2}'
    )
    found = config(vit_model=f"hf:{tmp_path}").preprocessing()
    assert (found.image_size, found.mean, found.interpolation) == (32, (0.5, 0.5, 0.5), "bilinear")


def test_folders_of_no_use_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"model\.vit_model"):
        encoder(vit_model=f"hf:{tmp_path / 'nowhere'}")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="bert, which is no vision model"):
        encoder(vit_model=f"hf:{tmp_path}")


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    small, other = tmp_path / "small", tmp_path / "other"
    FOLDERS["dinov2"]().save_pretrained(str(small))
    for sizes, fault in (
        ({"num_hidden_layers": 2}, "missing"),
        ({"hidden_size": 24}, r"another size \[.*cls_token"),
    ):
        Dinov2Model(Dinov2Config(**SIZES | sizes)).save_pretrained(str(other))
        with pytest.raises(CheckpointError, match=rf"other.*weights of another vision encoder.*{fault}"):
            loaded(vit_model=f"hf:{small}", vit_ckpt=str(other))


# timm


def test_a_model_of_timm_gives_its_own_features(vit_args: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(3)
    name = "vit_tiny_patch16_224"
    theirs = timm.create_model(name, img_size=32, **vit_args).eval()
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")  # with its head, as published
    section = {"vit_model": f"timm:{name}", "img_size": 32, "vit_ckpt": str(tmp_path / "vit.pth")}
    own = loaded(**section, vision={"args": vit_args})
    with torch.no_grad():
        close(own(image()), theirs.forward_features(image()))
        penultimate = loaded(**section, vision={"args": vit_args, "layer": -2, "class_tokens": False})
        close(penultimate(image()), theirs.forward_intermediates(image(), output_fmt="NLC")[1][-2])
    assert (own.num_tokens, own.width, own.prefix_tokens) == (17, 24, 1)
    torch.save({"model": own.published_state()}, tmp_path / "own.pth")
    again = loaded(**section | {"vit_ckpt": str(tmp_path / "own.pth")}, vision={"args": vit_args})
    assert torch.equal(again(image()), own(image()))


def test_the_visual_half_of_an_open_clip_loads(vit_args: dict[str, Any], tmp_path: Path) -> None:
    """As BiomedCLIP is published: the trunk behind ``visual.trunk.``, beside a head and the text half."""
    torch.manual_seed(3)
    name = "vit_tiny_patch16_224"
    theirs = timm.create_model(name, img_size=32, num_classes=0, **vit_args).eval()
    state = {f"visual.trunk.{key}": value for key, value in theirs.state_dict().items()}
    state |= {"visual.head.proj.weight": torch.zeros(5, 24), "text.proj.weight": torch.zeros(2, 2)}
    state["logit_scale"] = torch.ones(())
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    vision = {"args": vit_args}
    file = str(tmp_path / "open_clip_pytorch_model.bin")
    own = loaded(vit_model=f"timm:{name}", img_size=32, vit_ckpt=file, vision=vision)
    with torch.no_grad():
        close(own(image()), theirs.forward_features(image()))


def test_positions_of_timm_are_resized(vit_args: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(3)
    name = "vit_tiny_patch16_224"
    torch.save(timm.create_model(name, img_size=32, **vit_args).state_dict(), tmp_path / "vit.pth")
    section = {"vit_model": f"timm:{name}", "vit_ckpt": str(tmp_path / "vit.pth")}
    assert loaded(**section, img_size=48, vision={"args": vit_args})(image(48)).shape == (2, 37, 24)


@pytest.mark.parametrize(
    ("name", "tokens", "width", "args"),
    [
        ("swin_tiny_patch4_window7_224", 1, 16, {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}),
        ("convnext_atto", 1, 16, {"dims": [4, 8, 8, 16], "depths": [1, 1, 1, 1]}),
        ("eva02_tiny_patch14_224", 17, 24, {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8}),
        (
            "vit_small_patch14_reg4_dinov2",
            21,
            24,
            {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8},
        ),
        (
            "vit_base_patch16_siglip_224",
            16,
            24,
            {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8},
        ),
    ],
)
def test_kinds_of_timm(name: str, tokens: int, width: int, args: dict[str, Any]) -> None:
    args = args | ({"patch_size": 16, "window_size": 1} if name.startswith("swin") else {})
    own = encoder(vit_model=f"timm:{name}", img_size=32, vision={"args": args})
    found = own(image())
    assert found.shape == (2, own.num_tokens, own.width) == (2, tokens, width)
    assert own.prefix_tokens == {17: 1, 21: 5}.get(tokens, 0)


def test_images_are_prepared_as_timm_says() -> None:
    found = config(vit_model="timm:vit_base_patch16_siglip_224").preprocessing()
    assert (found.image_size, found.mean, found.std) == (224, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"vit_model": "timm:vit_tiny_patch16_225"}, r"model\.vit_model: .*vit_tiny_patch16_224"),
        (
            {"vit_model": "timm:vit_tiny_patch16_224.x"},
            r"model\.vit_model: timm has no model 'vit_tiny_patch16_224\.x'",
        ),
        ({"vit_model": "timm"}, r"model\.vit_model: .*timm has no model ''"),
        ({"vit_model": "tim:x"}, r"model\.vit_model: .*no vision encoder is called 'tim'.*timm"),
        ({"vit_model": "hf:"}, r"model\.vit_model: .*FOLDER_OR_ID"),
        ({"vit_model": "medclip:x"}, r"model\.vit_model: .*one medclip"),
        ({"vit_model": "eva_clip_g:x"}, r"model\.vit_model: .*takes no name"),
        ({"vit_model": "medclip", "vision": {"depth": 3}}, r"model\.vision\.depth: unknown key"),
        ({"vision": {"img_size": 30}}, "30 is not a multiple of patch_size 14"),
    ],
)
def test_what_no_encoder_can_be_is_refused_with_its_key(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**section)


def test_sizes_that_do_not_fit_are_one_error(vit_args: dict[str, Any]) -> None:
    name = "timm:vit_tiny_patch16_224"
    with pytest.raises(ConfigError, match=r"model\.vision\.img_size 30 is not a multiple of 8"):
        encoder(vit_model=name, img_size=30, vision={"args": vit_args})
    with pytest.raises(ConfigError, match=r"model\.vision\.layer 9: .* has 3 blocks"):
        encoder(vit_model=name, img_size=32, vision={"args": vit_args, "layer": 9})
    for args in ({"nonsense": 1}, {"embed_dim": 25, "num_heads": 2}):
        with pytest.raises(ConfigError, match=rf"model\.vision\.args: {name} cannot be built so: "):
            encoder(vit_model=name, img_size=32, vision={"args": args})
    with pytest.raises(ConfigError, match=r"model\.vision\.args: nonsense: no keys of a swin"):
        encoder(vit_model="medclip", vision={"args": {"nonsense": 1}})
    with pytest.raises(ConfigError, match=r"model\.vision\.args: medclip cannot be built so: .*depths"):
        encoder(vit_model="medclip", vision={"args": {"depths": "x"}})
    folder = "hf:train_configs/recipes/tiny/encoders/"
    with pytest.raises(ConfigError, match=r"model\.vision\.drop_path_rate: a siglip_vision_model of .* none"):
        encoder(vit_model=f"{folder}siglip", drop_path_rate=0.1)
    assert encoder(vit_model=f"{folder}dinov2", drop_path_rate=0.1).trunk.config.drop_path_rate == 0.1
    with pytest.raises(DataError, match="built for images of 32x32 pixels and got 48x48"):
        encoder(vit_model=name, img_size=32, vision={"args": vit_args})(image(48))


# MedCLIP


def medclip_file(path: Path, theirs: SwinModel, head: Tensor) -> str:
    """A file with the keys of MedCLIP's ``pytorch_model.bin``: Swin as transformers 4 named its parts."""
    theirs.save_pretrained(str(path / "swin"))
    from safetensors.torch import load_file

    published = load_file(path / "swin" / "model.safetensors")
    assert any(".attention.self.query." in key for key in published)
    state = {f"vision_model.model.{key}": value for key, value in published.items()}
    state |= {"vision_model.projection_head.weight": head, "logit_scale": torch.ones(())}
    state["text_model.projection_head.weight"] = torch.zeros(2, 2)
    torch.save(state, path / "pytorch_model.bin")
    return str(path / "pytorch_model.bin")


def test_medclip_reads_its_published_keys(tmp_path: Path) -> None:
    torch.manual_seed(5)
    theirs = SwinModel(SwinConfig(image_size=32, **SWIN)).eval()
    head = torch.randn(6, 16)
    section: dict[str, Any] = {"vit_model": "medclip", "vit_ckpt": medclip_file(tmp_path, theirs, head)}
    section["img_size"] = 32
    with torch.no_grad():
        expected: Any = theirs(image())
        tokens = loaded(**section, vision={"args": SWIN})
        close(tokens(image()), expected.last_hidden_state)
        vision = {"args": SWIN, "output": "projection", "projection_dim": 6}
        projected = loaded(**section, vision=vision)
        close(projected(image())[:, 0], expected.pooler_output @ head.T)
    assert (tokens.num_tokens, tokens.width) == (16, 16)
    assert (projected.num_tokens, projected.width) == (1, 6)
    torch.save({"model": projected.published_state()}, tmp_path / "own.pth")
    again = loaded(**section | {"vit_ckpt": str(tmp_path / "own.pth")}, vision=vision)
    assert torch.equal(again(image()), projected(image()))


def test_medclip_is_the_size_that_its_paper_names() -> None:
    with torch.device("meta"):
        own = build_encoder(config(vit_model="medclip"))
    assert (own.num_tokens, own.width) == (49, 768)
    assert sum(parameter.numel() for parameter in own.parameters()) == 27_519_354
    assert config(vit_model="medclip").preprocessing().mean == (0.5862785803043838,) * 3


# Weights and settings


def test_weights_may_be_a_repository_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FOLDERS["vit"]().save_pretrained(str(tmp_path))
    named: list[str] = []

    def fetched(name: str, where: str) -> Path:
        named.append(name)
        return tmp_path

    monkeypatch.setattr(vision_tower, "fetched", fetched)
    loaded(vit_model=f"hf:{tmp_path}", vit_ckpt="hf://owner/weights")
    assert named == ["hf://owner/weights"]


def test_keys_beside_the_section_vision_override_it() -> None:
    vision = {"img_size": 28, "drop_path_rate": 0.1}
    assert config(vision=vision).vision.drop_path_rate == 0.1
    both = config(vision=vision, image_size=56, drop_path_rate=0.0, use_grad_checkpoint=True).vision
    assert (both.img_size, both.drop_path_rate, both.use_grad_checkpoint) == (56, 0.0, True)
    with pytest.raises(ConfigError, match="img_size 28 and image_size 56 are two names for one thing"):
        config(img_size=28, image_size=56)


# Training


@pytest.mark.parametrize("kind", ["timm", "hf"])
def test_layers_have_their_distance_to_the_output(
    kind: str, vit_args: dict[str, Any], tmp_path: Path
) -> None:
    if kind == "timm":
        own = encoder(vit_model="timm:vit_tiny_patch16_224", img_size=32, vision={"args": vit_args})
    else:
        FOLDERS["dinov2"]().save_pretrained(str(tmp_path))
        own = encoder(vit_model=f"hf:{tmp_path}")
    distances = {name: own.layers_to_output(name) for name, _ in own.named_parameters()}
    assert set(distances.values()) == {1, 2, 3, 4}
    embeddings = [name for name in distances if "patch_embed" in name or "cls_token" in name]
    assert {distances[name] for name in embeddings} == {4}
    assert all(
        distances[name] == 1 for name in distances if name.startswith(("trunk.norm", "trunk.layernorm"))
    )


class Pooled(nn.Module):
    """Gives one answer for an image, and has no blocks."""

    def forward(self, image: Tensor) -> Tensor:
        return image.mean((2, 3))


class PooledEncoder(TrunkEncoder):
    def run_trunk(self, image: Tensor) -> Tensor:
        found: Tensor = self.trunk(image)
        return found


def test_what_gives_no_tokens_is_one_error() -> None:
    with pytest.raises(ConfigError, match=r"model\.vit_model: mine gives no tokens, but \(1, 3\)"):
        PooledEncoder(Pooled(), TrunkConfig(), Preprocessing(8), "mine")
    with pytest.raises(ConfigError, match=r"model\.vit_model: mine has no blocks"):
        PooledEncoder(Pooled(), TrunkConfig(layer=-2), Preprocessing(8), "mine")
