"""How the language model is held and trained: 4 and 8 bits, all of it, without its embeddings, recomputed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import xraygpt.models.llm as llm_module
from xraygpt.common.checkpoint import save_checkpoint
from xraygpt.common.dist_utils import whole
from xraygpt.common.errors import CheckpointError, ConfigError, MissingFileError
from xraygpt.models.adapters import AdapterConfig
from xraygpt.models.llm import load_llm, weights_left_in_files
from xraygpt.models.mini_gpt4 import MiniGPT4, MiniGPT4Config
from xraygpt.runners.train_state import make_manifest, trainable_state

LORA = AdapterConfig(r=4, alpha=8, dropout=0.0)
NF4, INT8 = "nf4", "int8"
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra quantization is not installed"
)


@pytest.fixture(name="load")
def seeded(load: Callable[..., MiniGPT4]) -> Callable[..., MiniGPT4]:
    """Models whose random parts, the encoder and the Q-Former, are the same each time."""

    def build(**keys: Any) -> MiniGPT4:
        torch.manual_seed(1)
        return load(**keys)

    return build


def gradients(model: MiniGPT4, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    model(batch)["loss"].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@needs_bitsandbytes
@pytest.mark.parametrize(("precision", "bits"), [(NF4, 4), (INT8, 8)])
def test_fewer_bits_come_near_the_full_model(
    load: Callable[..., MiniGPT4], batch: dict[str, Any], precision: str, bits: int
) -> None:
    full, small = load(), load(llm_precision=precision)
    layer, packed = (m.llama_model.model.layers[0].mlp.up_proj.weight for m in (full, small))
    assert packed.numel() * packed.element_size() * 8 == layer.numel() * bits
    with torch.no_grad():
        loss = small(batch)["loss"]
    assert torch.equal(small(batch)["loss"], loss)  # also where a processor has a way of its own to evaluate
    difference = (small(batch)["loss"] - full(batch)["loss"]).abs()
    assert 0 < difference < 0.15 * full(batch)["loss"]
    assert set(gradients(small, batch)) == {"llama_proj.weight", "llama_proj.bias"}


@needs_bitsandbytes
def test_a_projection_travels_between_precisions(load: Callable[..., MiniGPT4], tmp_path: Path) -> None:
    for first, second in ((NF4, "fp32"), ("fp32", INT8)):
        model = load(llm_precision=first)
        file = tmp_path / f"{first}.pth"
        save_checkpoint(file, {"model": trainable_state(model), "manifest": make_manifest(model)})
        load(llm_precision=second, ckpt=str(file))


@needs_bitsandbytes
def test_an_adapter_is_trained_beside_4_bits(load: Callable[..., MiniGPT4], batch: dict[str, Any]) -> None:
    model = load(llm_precision=NF4, adapter=LORA)
    found = gradients(model, batch)
    assert all("lora_" in name or name.startswith("llama_proj") for name in found)
    assert sum("lora_B" in name for name in found) == 14


@needs_bitsandbytes
def test_a_folder_that_is_quantised_already(
    load: Callable[..., MiniGPT4], batch: dict[str, Any], llm_folder: Path, tmp_path: Path
) -> None:
    quantised = tmp_path / "nf4"
    load_llm(llm_folder, NF4).save_pretrained(str(quantised))
    for file in llm_folder.glob("tokenizer*"):
        (quantised / file.name).write_bytes(file.read_bytes())
    made, read = load(llm_precision=NF4), load(llama_model=str(quantised))
    assert torch.equal(made(batch)["loss"], read(batch)["loss"])
    with pytest.raises(ConfigError, match=r"are quantised to nf4, and are asked for in fp32"):
        load(llama_model=str(quantised), llm_precision="fp32")
    with pytest.raises(ConfigError, match="because they are trained"):
        load(llama_model=str(quantised), freeze_llm=False)


def test_without_bitsandbytes_it_says_what_to_install(
    load: Callable[..., MiniGPT4], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm_module, "find_spec", lambda name: None)
    with pytest.raises(MissingFileError, match=r"nf4 needs the package bitsandbytes: .*quantization"):
        load(llm_precision=NF4)


def test_other_ways_to_quantise_are_refused(llm_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq", "bits": 4}}')
    (tmp_path / "model.safetensors").write_bytes((llm_folder / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="quantised by gptq, which is not read"):
        load_llm(tmp_path)


def test_the_references_8_bit_key() -> None:
    assert MiniGPT4Config(low_resource=True).llm_precision == INT8
    assert MiniGPT4Config(low_resource=True, llm_precision="bf16").llm_precision == "bf16"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"freeze_llm": False, "llm_precision": NF4}, "cannot be trained; train an adapter"),
        ({"freeze_embeddings": True}, "frozen as a whole"),
        ({"freeze_llm": False, "adapter": LORA}, "exclude each other"),
    ],
)
def test_settings_that_exclude_each_other(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MiniGPT4Config(**settings)


@pytest.mark.parametrize("embeddings", [True, False])
def test_all_of_the_language_model_is_trained(
    load: Callable[..., MiniGPT4], batch: dict[str, Any], tmp_path: Path, embeddings: bool
) -> None:
    model = load(freeze_llm=False, freeze_embeddings=not embeddings)
    found = gradients(model, batch)
    names = {name for name, _ in model.llama_model.named_parameters(prefix="llama_model")}
    tables = {"llama_model.model.embed_tokens.weight", "llama_model.lm_head.weight"}
    assert set(found) == (names if embeddings else names - tables) | {"llama_proj.weight", "llama_proj.bias"}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter -= 0.1 * found.get(name, torch.zeros(()))
    model.eval()
    file = tmp_path / "checkpoint.pth"
    save_checkpoint(file, {"model": trainable_state(model), "manifest": make_manifest(model)})
    model.export(tmp_path)
    from_checkpoint = load(ckpt=str(file)).eval()
    from_parts = load(llama_model=str(tmp_path / "llm"), ckpt=str(tmp_path / "projection.pth")).eval()
    assert torch.equal(from_checkpoint(batch)["loss"], model(batch)["loss"])
    assert torch.equal(from_parts(batch)["loss"], model(batch)["loss"])
    state = trainable_state(model)
    del state["llama_model.model.layers.0.mlp.up_proj.weight"]
    save_checkpoint(file, {"model": state, "manifest": make_manifest(model)})
    with pytest.raises(CheckpointError, match="missing from the file"):
        load(ckpt=str(file))


def test_a_checkpoint_is_loaded_over_weights_that_are_still_in_files(
    load: Callable[..., MiniGPT4], tmp_path: Path
) -> None:
    """As a sharded model does it, whose language model is not read before it is sharded."""
    model = load(freeze_llm=False)
    with torch.no_grad():
        for parameter in model.llama_model.parameters():
            parameter.mul_(1.1)
    file = tmp_path / "checkpoint.pth"
    save_checkpoint(file, {"model": trainable_state(model), "manifest": make_manifest(model)})
    with weights_left_in_files():
        waiting = load(freeze_llm=False, ckpt=str(file))
    for name, parameter in waiting.named_parameters():
        assert torch.equal(whole(parameter), model.get_parameter(name)), name


@pytest.mark.parametrize("settings", [{}, {"adapter": LORA}, {"freeze_llm": False}])
def test_recomputed_activations_give_the_same_gradients(
    load: Callable[..., MiniGPT4], batch: dict[str, Any], settings: dict[str, Any]
) -> None:
    plain = gradients(load(**settings), batch)
    model = load(**settings, llm_grad_checkpoint=True)
    calls: list[Any] = []
    model.llama_model.model.layers[0].mlp.register_forward_pre_hook(lambda *call: calls.append(call))
    torch.testing.assert_close(gradients(model, batch), plain, rtol=0, atol=0)
    assert len(calls) == 2  # once again in the backward pass
