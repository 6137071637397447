"""The way back: our folders give every tensor again, public ones their vision encoder and Q-Former."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Model,
    OPTConfig,
    PreTrainedModel,
    T5Config,
)

from tests.convert.conftest import Exported, byte_level_tokenizer, random_model
from tests.models.tiny import tiny_config
from xraygpt.common.checkpoint import load_weights
from xraygpt.common.config import Config
from xraygpt.common.errors import CheckpointError, ConfigError, MissingFileError
from xraygpt.convert.cli import main
from xraygpt.convert.from_hf import import_folder
from xraygpt.convert.to_hf import export_model
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.processors import Blip2ImageEvalProcessor
from xraygpt.processors.blip_processors import CLIP_MEAN

VISION = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
QFORMER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {
    "opt": OPTConfig(
        vocab_size=40,
        hidden_size=32,
        ffn_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        word_embed_proj_dim=32,
    ),
    "t5": T5Config(vocab_size=40, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2),
}


def public_model(kind: str, cls: type[PreTrainedModel] = Blip2ForConditionalGeneration) -> PreTrainedModel:
    """A random model of the layout of the published ones."""
    torch.manual_seed(4)
    config = Blip2Config(
        vision_config={**VISION, "image_size": 16, "patch_size": 8, "initializer_range": 0.2},
        qformer_config={**QFORMER, "encoder_hidden_size": 24},
        text_config=TEXT[kind].to_dict(),
        num_query_tokens=3,
        image_token_index=39,
    )
    model = cls(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def read_back(text: str, folder: Path, *options: str) -> tuple[MiniGPT4, Config]:
    """The model of the printed sections, read as a user's file."""
    (folder / "user.yaml").write_text(text)
    cfg = Config(SimpleNamespace(cfg_path=str(folder / "user.yaml"), options=list(options)))
    return MiniGPT4.from_config(cfg.model_cfg).eval(), cfg


def assert_same_bytes(one: MiniGPT4, other: MiniGPT4) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype, name
        own, other = (tensor.reshape(-1).view(torch.uint8) for tensor in (value, theirs[name]))
        assert torch.equal(own, other), name


def test_there_and_back_gives_every_byte_again(
    shipped: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "from-hf",
        str(shipped.folder),
        str(tmp_path / "back.pth"),
        "--llm-folder",
        str(tmp_path / "llm"),
    ]
    assert main(command) == 0
    back, cfg = read_back(capsys.readouterr().out, tmp_path)
    assert_same_bytes(shipped.model, back)
    image_processor = cfg.preprocess_cfg["vis_processor"]["eval"]
    assert image_processor["image_size"] == 64
    assert image_processor["mean"] == pytest.approx(CLIP_MEAN)
    assert back.prompt_list == shipped.model.prompt_list
    assert (back.end_sym, back.max_txt_len) == (shipped.model.end_sym, shipped.model.max_txt_len)
    text = "###Patient: <Img> two  blanks\n"
    assert back.llama_tokenizer(text).input_ids == shipped.model.llama_tokenizer(text).input_ids
    assert len(back.llama_tokenizer) == len(shipped.model.llama_tokenizer)


@pytest.mark.parametrize(("kind", "precision"), [("opt", "fp32"), ("gpt_neox", "fp32"), ("opt", "bf16")])
def test_other_decoders_come_back_too(kind: str, precision: str, tmp_path: Path) -> None:
    model = random_model(tmp_path / "llm", kind, precision)
    export_model(model, Blip2ImageEvalProcessor(image_size=16), tmp_path / "hf")
    text = import_folder(tmp_path / "hf", tmp_path / "back.pth", tmp_path / "back_llm")
    back, _ = read_back(text, tmp_path, f"model.llm_precision={precision}")
    assert_same_bytes(model, back)


@pytest.mark.parametrize("cls", [Blip2ForConditionalGeneration, Blip2Model])
@pytest.mark.parametrize("kind", ["opt", "t5"])
@pytest.mark.parametrize("direct", [True, False])
@torch.no_grad()
def test_vision_and_q_former_of_a_public_model(
    kind: str, cls: type[PreTrainedModel], direct: bool, tmp_path: Path
) -> None:
    """Either the folder itself or the converted file is named in the two keys."""
    theirs = public_model(kind, cls)
    theirs.save_pretrained(str(tmp_path / "hf"), max_shard_size="20KB")
    theirs.vision_model.post_layernorm.eps = 1e-5
    source = tmp_path / "hf"
    random = random_model(tmp_path / "llm", "opt")
    if not direct:
        source = tmp_path / "parts.pth"
        section = yaml.safe_load(import_folder(tmp_path / "hf", source))["model"]
        assert ("ckpt" in section) == (kind == "opt")
        assert ("llama_proj.weight" in load_weights(source)) == (kind == "opt")
        assert not any(name.startswith(("llama_model", "language_model")) for name in load_weights(source))
    keys: dict[str, Any] = {"vit_ckpt": str(source), "q_former_model": str(source)}
    model = MiniGPT4.from_config(tiny_config(llama_model=str(tmp_path / "llm"), **keys)).eval()
    images = torch.randn(2, 3, 16, 16)
    hidden = theirs.vision_model(images).last_hidden_state
    torch.testing.assert_close(model.get_image_features(images).last_hidden_state, hidden, rtol=0, atol=1e-5)
    queries = theirs.qformer(
        query_embeds=theirs.query_tokens.expand(2, -1, -1), encoder_hidden_states=hidden
    ).last_hidden_state
    torch.testing.assert_close(model.get_qformer_features(images), queries, rtol=0, atol=1e-5)
    assert not torch.equal(random.get_qformer_features(images), queries)


def test_the_vision_encoder_of_a_folder_is_resized(tmp_path: Path) -> None:
    public_model("opt").save_pretrained(str(tmp_path / "hf"))
    random_model(tmp_path / "llm", "opt")
    config = tiny_config(image_size=32, vit_ckpt=str(tmp_path / "hf"), llama_model=str(tmp_path / "llm"))
    assert MiniGPT4.from_config(config).visual_encoder.get_parameter("pos_embed").shape == (1, 17, 24)


# ---- refusals


def test_folders_of_other_kinds_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "out.pth"
    (tmp_path / "hf").mkdir()
    with pytest.raises(MissingFileError, match=r"no config\.json"):
        import_folder(tmp_path / "hf", target)
    for content, message in (
        ('{"model_type": "llama"}', "'llama', not 'blip-2'"),
        ("{", "not valid JSON"),
        ('{"model_type": "blip-2", "num_query_tokens": "many"}', "its configuration cannot be read"),
    ):
        (tmp_path / "hf" / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            import_folder(tmp_path / "hf", target)
    assert not target.exists()


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    public_model("opt").save_pretrained(str(tmp_path / "hf"))
    weights = tmp_path / "hf" / "model.safetensors"
    whole = weights.read_bytes()
    for content, message in (
        (whole[:5000], "truncated"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git-LFS"),
        (b"<html>", "web page"),
    ):
        weights.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            import_folder(tmp_path / "hf", tmp_path / "out.pth")
    weights.unlink()
    with pytest.raises(MissingFileError, match="no weights in it"):
        import_folder(tmp_path / "hf", tmp_path / "out.pth")


def test_the_vision_encoder_of_a_blip2_becomes_no_folder(tmp_path: Path) -> None:
    public_model("opt").config.save_pretrained(str(tmp_path / "hf"))
    with pytest.raises(ConfigError, match=r"written to .*out\.pth; leave out --vision-folder"):
        import_folder(tmp_path / "hf", tmp_path / "out.pth", vision_folder=tmp_path / "tower")


def test_what_is_there_is_not_overwritten(shipped: Exported, tmp_path: Path) -> None:
    (tmp_path / "out.pth").write_text("mine")
    with pytest.raises(ConfigError, match="not overwritten"):
        import_folder(shipped.folder, tmp_path / "out.pth")
    assert (tmp_path / "out.pth").read_text() == "mine"
    with pytest.raises(ConfigError, match="not overwritten"):
        import_folder(shipped.folder, tmp_path / "new.pth", tmp_path)
    assert not (tmp_path / "new.pth").exists()


def test_an_encoder_decoder_is_no_language_model_here(tmp_path: Path) -> None:
    public_model("t5").save_pretrained(str(tmp_path / "hf"))
    with pytest.raises(ConfigError, match="t5, is no decoder"):
        import_folder(tmp_path / "hf", tmp_path / "out.pth", tmp_path / "llm")


def test_a_language_model_with_a_hole_is_refused(tmp_path: Path) -> None:
    theirs = public_model("opt")
    state = theirs.state_dict()
    del state["language_model.model.decoder.layers.0.fc1.weight"]
    theirs.config.save_pretrained(str(tmp_path / "hf"))
    torch.save(state, tmp_path / "hf" / "pytorch_model.bin")
    byte_level_tokenizer().save_pretrained(str(tmp_path / "hf"))
    with pytest.raises(CheckpointError, match=r"missing .*fc1\.weight"):
        import_folder(tmp_path / "hf", tmp_path / "out.pth", tmp_path / "llm")


@pytest.mark.parametrize("own", [True, False])
def test_a_language_model_without_a_tokenizer_is_refused(own: bool, tmp_path: Path) -> None:
    public_model("opt").save_pretrained(str(tmp_path / "hf"))
    place = tmp_path / "hf" / "llm_tokenizer" if own else tmp_path / "hf"
    place.mkdir(exist_ok=True)
    with pytest.raises(MissingFileError, match=r"(?s)no tokenizer in it.*Copy .*tokenizer\.json") as caught:
        import_folder(tmp_path / "hf", tmp_path / "out.pth", tmp_path / "llm")
    assert str(caught.value).startswith(f"{place}:")
    assert not (tmp_path / "out.pth").exists()
    assert not (tmp_path / "llm").exists()
    byte_level_tokenizer().save_pretrained(str(place))
    import_folder(tmp_path / "hf", tmp_path / "out.pth", tmp_path / "llm")
    assert (tmp_path / "llm" / "tokenizer.json").read_bytes() == (place / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("name", ["back.safetensors", "back.bin", "back"])
def test_a_checkpoint_is_called_pth(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"end in \.pth or \.pt"):
        import_folder(tmp_path / "not_looked_at", tmp_path / name)


def test_targets_that_cannot_be_made_are_refused_first(tmp_path: Path) -> None:
    (tmp_path / "a_file").write_text("mine")
    public_model("opt").config.save_pretrained(str(tmp_path / "hf"))
    for file, llm in (
        (tmp_path / "a_file" / "out.pth", None),
        (tmp_path / "out.pth", tmp_path / "a_file" / "deep" / "llm"),
    ):
        with pytest.raises(ConfigError, match="a_file is no folder"):
            import_folder(tmp_path / "hf", file, llm)
    assert (tmp_path / "a_file").read_text() == "mine"
