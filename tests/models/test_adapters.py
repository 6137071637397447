"""Adapters: what is trained and saved, and the folders of peft's that they travel as."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from xraygpt.common.checkpoint import save_checkpoint
from xraygpt.common.errors import CheckpointError, ConfigError, MissingFileError
from xraygpt.models.adapters import AdapterConfig, is_adapter_key, merge_adapter
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.runners.train_state import make_manifest, trainable_state

LORA = AdapterConfig(r=4, alpha=8, dropout=0.0)
Load = Callable[..., MiniGPT4]


@pytest.fixture(name="load")
def seeded(load: Load) -> Load:
    """Models whose random parts, the encoder and the Q-Former, are the same each time."""

    def build(**keys: Any) -> MiniGPT4:
        torch.manual_seed(1)
        return load(**keys)

    return build


def train_a_little(model: MiniGPT4, batch: dict[str, Any]) -> MiniGPT4:
    """Move what is trained away from where it starts, where an adapter has no effect."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model(batch)["loss"].backward()
        optimizer.step()
    return model.eval()


def checkpoint_of(model: MiniGPT4, file: Path) -> Path:
    return save_checkpoint(file, {"model": trainable_state(model), "manifest": make_manifest(model)})


def parts_of(model: MiniGPT4) -> set[str]:
    return {name.split(".")[0] for name in trainable_state(model)}


def test_only_adapter_and_projection_are_trained_and_saved(load: Load, batch: dict[str, Any]) -> None:
    plain, adapted = load(), load(adapter=LORA)
    adapted.llama_proj.load_state_dict(plain.llama_proj.state_dict())
    trained = trainable_state(adapted)
    assert parts_of(adapted) == {"llama_proj", "llama_model"}
    assert all(is_adapter_key(name) for name in trained if name.startswith("llama_model"))
    assert not any("lm_head" in name for name in trained)
    # Before any training an adapter changes nothing.
    assert torch.equal(plain(batch)["loss"], adapted.eval()(batch)["loss"])
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    train_a_little(adapted, batch)
    after = adapted.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == set(trained)


def test_the_folder_of_an_adapter_is_plain_peft(load: Load, batch: dict[str, Any], tmp_path: Path) -> None:
    model = train_a_little(load(adapter=LORA), batch)
    model.export(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(model.config.llama_model)
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    ids = torch.arange(3, 40).unsqueeze(0)
    with torch.no_grad():
        own = model.llama_model(input_ids=ids).logits
        assert torch.equal(theirs(input_ids=ids).logits, own)
        with theirs.disable_adapter():
            assert not torch.allclose(theirs(input_ids=ids).logits, own, atol=1e-3)
    again = load(
        adapter=AdapterConfig(path=str(tmp_path / "adapter")), ckpt=str(tmp_path / "projection.pth")
    ).eval()
    assert torch.equal(again(batch)["loss"], model(batch)["loss"])
    assert parts_of(again) == {"llama_proj", "llama_model"}
    frozen = load(adapter=AdapterConfig(path=str(tmp_path / "adapter"), freeze=True))
    assert parts_of(frozen) == {"llama_proj"}


def test_a_checkpoint_holds_the_adapter(load: Load, batch: dict[str, Any], tmp_path: Path) -> None:
    model = train_a_little(load(adapter=LORA), batch)
    file = str(checkpoint_of(model, tmp_path / "checkpoint.pth"))
    again = load(adapter=LORA, ckpt=file).eval()
    assert torch.equal(again(batch)["loss"], model(batch)["loss"])
    with pytest.raises(CheckpointError, match=r"set model\.adapter as in its training, \{r: 4, alpha: 8"):
        load(ckpt=file)
    with pytest.raises(CheckpointError, match="have another size"):
        load(ckpt=file, adapter=AdapterConfig(r=2))
    state = trainable_state(model)
    del state[next(name for name in state if "lora_B" in name)]
    save_checkpoint(tmp_path / "cut.pth", {"model": state, "manifest": make_manifest(model)})
    with pytest.raises(CheckpointError, match="missing from the file"):
        load(adapter=LORA, ckpt=str(tmp_path / "cut.pth"))


def test_the_check_of_the_language_model_looks_at_base_weights(load: Load) -> None:
    facts = ("llm_weights", "llm_layer_weights", "llama_model")
    plain, adapted = load().manifest(), load(adapter=LORA).manifest()
    assert [plain[key] for key in facts] == [adapted[key] for key in facts]


def test_an_adapter_for_another_model(load: Load, batch: dict[str, Any], tmp_path: Path) -> None:
    model = load(adapter=LORA)
    with torch.no_grad():
        model.llama_model.model.embed_tokens.weight.mul_(1.5)
    model.export(tmp_path)
    with pytest.raises(CheckpointError, match="was trained for another language model"):
        load(adapter=AdapterConfig(path=str(tmp_path / "adapter")))


def broken(folder: Path, target: Path, **changes: Any) -> str:
    shutil.copytree(folder, target)
    settings = json.loads((target / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(settings | changes))
    return str(target)


def test_folders_that_are_of_no_use_are_refused_in_a_line(load: Load, tmp_path: Path) -> None:
    load(adapter=LORA).export(tmp_path)
    good = tmp_path / "adapter"

    def refusal(path: str, kind: type[Exception] = CheckpointError) -> str:
        with pytest.raises(kind) as caught:
            load(adapter=AdapterConfig(path=path))
        assert "Traceback" not in str(caught.value)
        return str(caught.value)

    assert "no adapter_config.json" in refusal(str(tmp_path), MissingFileError)
    assert "missing file: an adapter" in refusal(str(tmp_path / "nowhere"), MissingFileError)
    assert "kind IA3" in refusal(broken(good, tmp_path / "ia3", peft_type="IA3"))
    whole = broken(good, tmp_path / "whole", modules_to_save=["lm_head"])
    assert "xraygpt merge-adapter" in refusal(whole)
    assert "another model" in refusal(broken(good, tmp_path / "targets", target_modules=["c_attn"]))
    assert "another model" in refusal(broken(good, tmp_path / "rank", r=8))


def test_targets_that_match_nothing_are_named(load: Load) -> None:
    with pytest.raises(
        ConfigError, match=r"model\.adapter\.targets.*'c_attn'; there are down_proj, gate_proj"
    ):
        load(adapter=AdapterConfig(targets=["q_proj", "c_attn"]))
    only = trainable_state(load(adapter=AdapterConfig(targets=["q_proj", "v_proj"])).llama_model)
    assert {name.split(".")[4] for name in only} == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"r": 0}, "at least 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"targets": []}, "targets"),
        ({"path": "a", "r": 3, "alpha": 3}, "alpha, r: already decided"),
        ({"freeze": True}, "only the adapter of a path"),
    ],
)
def test_settings_that_exclude_each_other(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AdapterConfig(**settings)


def test_the_vision_encoder_has_one_too(load: Load, batch: dict[str, Any], tmp_path: Path) -> None:
    adapter = AdapterConfig(r=2, alpha=4, dropout=0.0)
    model = load(vit_adapter=adapter)
    names = [name for name in trainable_state(model) if name.startswith("visual_encoder")]
    assert any(".qkv." in name for name in names)
    gradients = train_a_little(model, batch).state_dict()
    moved = [name for name in names if "lora_B" in name and gradients[name].any()]
    assert moved == [name for name in names if "lora_B" in name]
    file = checkpoint_of(model, tmp_path / "checkpoint.pth")
    again = load(vit_adapter=adapter, ckpt=str(file)).eval()
    assert torch.equal(again(batch)["loss"], model(batch)["loss"])
    model.export(tmp_path)
    assert not (tmp_path / "vit.pth").exists()
    path = AdapterConfig(path=str(tmp_path / "vit_adapter"))
    third = load(vit_adapter=path, ckpt=str(tmp_path / "projection.pth")).eval()
    assert torch.equal(third(batch)["loss"], model(batch)["loss"])


def test_an_adapter_is_merged_in_place(load: Load, batch: dict[str, Any]) -> None:
    adapter = AdapterConfig(r=2, alpha=4, dropout=0.0)
    model = train_a_little(load(adapter=LORA, vit_adapter=adapter), batch)
    before = model(batch)["loss"]
    plain = set(load().state_dict())
    for part in (model.llama_model, model.visual_encoder):
        merge_adapter(part)
    assert set(model.state_dict()) == plain
    torch.testing.assert_close(model(batch)["loss"], before, rtol=1e-5, atol=0)
