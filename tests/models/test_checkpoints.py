"""Checkpoints travel both ways: files of the reference load here, and ours fit the reference's model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tests.models.pinned_keys import pinned_keys
from tests.models.tiny import tiny_config
from xraygpt.models.adapters import AdapterConfig
from xraygpt.models.blip2_qformer import Blip2Qformer, Blip2QformerConfig
from xraygpt.models.llm import load_llm, load_tokenizer
from xraygpt.models.mini_gpt4 import MiniGPT4, MiniGPT4Config
from xraygpt.runners.train_state import (
    trainable_state,
)

Make = Callable[..., MiniGPT4]
Load = Callable[..., MiniGPT4]
State = dict[str, Tensor]
TRAINED = {"stock": {}, "qformer": {"freeze_qformer": False}, "vit": {"freeze_vit": False}}


def full_size(tokenizer_folder: Path, **changes: Any) -> MiniGPT4:
    """The full-size model, without memory for its weights."""
    config = MiniGPT4Config(**changes)
    with torch.device("meta"):
        llm = LlamaForCausalLM(LlamaConfig())  # the defaults are LLaMA-7B
        return MiniGPT4.build(config, llm=llm, tokenizer=load_tokenizer(tokenizer_folder))


def buffers_of_the_reference() -> State:
    """What its checkpoints hold besides what was trained."""
    return {
        "Qformer.bert.embeddings.position_ids": torch.arange(512)[None],
        **{f"llama_model.model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(64) for i in range(32)},
    }


def assert_parts_equal(model: MiniGPT4, wanted: MiniGPT4, *parts: str) -> None:
    state = wanted.state_dict()
    names = [name for name in state if name.startswith(parts)]
    assert names
    for name in names:
        assert torch.equal(model.state_dict()[name], state[name]), name


# ---- our keys are the reference's


def test_full_size_keys_and_shapes_are_those_of_the_reference(tokenizer_folder: Path) -> None:
    model = full_size(tokenizer_folder)
    wanted = {
        name: entry.shape for name, entry in pinned_keys().items() if not name.endswith("rotary_emb.inv_freq")
    }
    assert len(pinned_keys()) == 1094
    assert len(wanted) == 1062
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == wanted
    assert model.show_n_params() == "7832.6M"


@pytest.mark.parametrize("trained", TRAINED)
def test_our_checkpoints_hold_nothing_that_the_reference_does_not_know(
    tokenizer_folder: Path, trained: str
) -> None:
    """`load_state_dict(ckpt["model"], strict=False)` of the reference reports no unexpected key then."""
    state = trainable_state(full_size(tokenizer_folder, **TRAINED[trained]))
    pinned = pinned_keys()
    assert {name: pinned[name].shape for name in state} == {n: tuple(v.shape) for n, v in state.items()}
    prefixes = {
        "stock": ("llama_proj.",),
        "qformer": ("llama_proj.", "Qformer.", "query_tokens"),
        "vit": ("llama_proj.", "visual_encoder.", "ln_vision."),
    }[trained]
    assert set(state) == {n for n, e in pinned.items() if n.startswith(prefixes) and not e.is_buffer}


def test_an_adapter_of_the_full_size_model_is_all_that_is_new(tokenizer_folder: Path) -> None:
    """160 MB of adapter beside 13.5 GB of language model in bf16, which are not in a checkpoint."""
    adapter = AdapterConfig(r=16)
    model = full_size(tokenizer_folder, adapter=adapter)
    with torch.device("meta"):
        model.add_adapters(model.config)
    matrices = {name: value for name, value in trainable_state(model).items() if "lora_" in name}
    layer = 4 * (4096 + 4096) + 3 * (4096 + 11008)
    assert sum(value.numel() for value in matrices.values()) == 32 * adapter.r * layer == 39_976_960
    assert set(trainable_state(model)) - set(matrices) == {"llama_proj.weight", "llama_proj.bias"}
    frozen = {name.replace(".base_layer", "") for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen < set(full_size(tokenizer_folder).state_dict())


# ---- released checkpoints of MiniGPT-4 and XrayGPT


@pytest.mark.parametrize("with_buffers", [True, False])
@pytest.mark.parametrize("trained", TRAINED)
def test_a_released_checkpoint(
    make_model: Make, load: Load, tmp_path: Path, trained: str, with_buffers: bool
) -> None:
    model = make_model(**TRAINED[trained])
    state = trainable_state(model) | (buffers_of_the_reference() if with_buffers else {})
    payload = {"model": state, "optimizer": {"state": {}}, "config": {"run": {}}, "scaler": None, "epoch": 3}
    torch.save(payload, tmp_path / "released.pth")
    loaded = load(ckpt=str(tmp_path / "released.pth"))
    parts = {"stock": (), "qformer": ("Qformer.", "query_tokens"), "vit": ("visual_encoder.", "ln_vision.")}
    assert_parts_equal(loaded, model, "llama_proj.", *parts[trained])


# ---- BLIP-2's Q-Former


def stage_one_file(folder: Path, vocabulary: Path, **extra: Tensor) -> tuple[Blip2Qformer, Path]:
    """A random first-stage model and its file as LAVIS publishes it, text half and heads included."""
    config = tiny_config()
    model = Blip2Qformer.with_random_weights(
        Blip2QformerConfig(
            vision=config.vision,
            qformer=config.qformer,
            image_size=16,
            num_query_token=3,
            embed_dim=8,
            bert_tokenizer=str(vocabulary),
        )
    )
    state = {n: v for n, v in model.state_dict().items() if not n.startswith("visual_encoder.")}
    torch.save({"model": state | extra}, folder / "blip2_pretrained_flant5xxl.pth")
    return model, folder / "blip2_pretrained_flant5xxl.pth"


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "heart", "lungs", "clear"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    return tmp_path / "vocab.txt"


def test_a_q_former_of_blip2_without_its_text_half(load: Load, tmp_path: Path, vocabulary: Path) -> None:
    stage2 = {"t5_proj.weight": torch.ones(7, 16), "t5_proj.bias": torch.ones(7)}
    first, file = stage_one_file(tmp_path, vocabulary, **stage2)
    model = load(q_former_model=str(file))
    own = model.state_dict()
    wanted = {n: v for n, v in first.state_dict().items() if n in own and not n.startswith("visual_encoder.")}
    assert {name.split(".")[0] for name in wanted} == {"query_tokens", "ln_vision", "Qformer"}
    assert all(torch.equal(own[name], value) for name, value in wanted.items())


def test_a_first_stage_with_its_heads(tmp_path: Path, vocabulary: Path) -> None:
    first, file = stage_one_file(tmp_path, vocabulary)
    torch.manual_seed(7)
    (tmp_path / "other").mkdir()
    second, _ = stage_one_file(tmp_path / "other", vocabulary)
    second.load_checkpoint(file)
    ours, theirs = second.state_dict(), first.state_dict()
    for part in ("itm_head.weight", "vision_proj.weight", "text_proj.bias", "Qformer.cls.predictions.bias"):
        assert torch.equal(ours[part], theirs[part]), part


# ---- the vision encoder


def test_an_eva_file_with_head_joined_bias_and_another_image_size(
    make_model: Make, load: Load, tmp_path: Path
) -> None:
    encoder = make_model(image_size=32).visual_encoder  # a grid of 4 x 4, to be resized to 2 x 2
    state = encoder.state_dict()
    published: State = {}
    for name, value in state.items():
        if name.endswith("q_bias"):
            joined = [value, torch.zeros(24), state[name.replace("q_bias", "v_bias")]]
            published[name.replace("q_bias", "qkv.bias")] = torch.cat(joined)
        elif not name.endswith("v_bias"):
            published[name] = value
    published |= {f"blocks.2.{n}": v for n, v in encoder.blocks[0].state_dict().items()}  # the 40th
    published |= {"head.weight": torch.ones(5, 24), "head.bias": torch.ones(5)}
    published |= {"fc_norm.weight": torch.ones(24), "fc_norm.bias": torch.ones(24)}
    torch.save(published, tmp_path / "eva_vit_g.pth")
    loaded = load(vit_ckpt=str(tmp_path / "eva_vit_g.pth")).visual_encoder.state_dict()
    for name, value in state.items():
        if name != "pos_embed":
            assert torch.equal(loaded[name], value), name
    assert loaded["pos_embed"].shape == (1, 5, 24)
    assert torch.equal(loaded["pos_embed"][:, 0], state["pos_embed"][:, 0])


# ---- language models


@pytest.mark.parametrize("form", ["bin", "bin shards", "safetensors", "safetensors shards"])
def test_a_language_model_in_every_form(llm_folder: Path, load: Load, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "vicuna"
    wanted = load_llm(llm_folder, "fp32")
    wanted.save_pretrained(str(folder), max_shard_size="10KB" if "shards" in form else "5GB")
    if form.startswith("bin"):
        as_bin(folder)
    for file in llm_folder.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    assert (len(weights) > 1) == ("shards" in form)
    model = load(llama_model=str(folder))
    wanted_state = wanted.state_dict()
    assert all(
        torch.equal(value, wanted_state[name]) for name, value in model.llama_model.state_dict().items()
    )


def as_bin(folder: Path) -> None:
    """Turn the weights of a folder into the older format, with the rotary tables it used to hold."""
    for file in sorted(folder.glob("*.safetensors")):
        state = load_file(file)
        if "model.norm.weight" in state:
            state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        name = file.name.replace("model", "pytorch_model", 1).replace(".safetensors", ".bin")
        torch.save(state, folder / name)
        file.unlink()
    index = folder / "model.safetensors.index.json"
    if index.exists():
        text = index.read_text().replace('"model-', '"pytorch_model-').replace(".safetensors", ".bin")
        (folder / "pytorch_model.bin.index.json").write_text(text)
        index.unlink()
