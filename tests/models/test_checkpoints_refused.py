"""Files that do not fit, or hold no weights: each is refused by name, and nothing in it is executed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from xraygpt.common.checkpoint import save_checkpoint
from xraygpt.common.errors import CheckpointError, MissingFileError, XrayGPTError
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.runners.train_state import (
    TrainProgress,
    make_manifest,
    read_training,
    restore_training,
    save_training,
    trainable_state,
)

Make = Callable[..., MiniGPT4]
Load = Callable[..., MiniGPT4]


def test_a_checkpoint_with_half_a_part_is_refused(make_model: Make, load: Load, tmp_path: Path) -> None:
    state = trainable_state(make_model(freeze_qformer=False))
    del state["Qformer.bert.encoder.layer.1.output_query.dense.bias"]
    save_checkpoint(tmp_path / "half.pth", {"model": state})
    with pytest.raises(CheckpointError, match=r"missing from the file: Qformer\.bert\.encoder\.layer\.1"):
        load(ckpt=str(tmp_path / "half.pth"))


@pytest.mark.parametrize("key", ["vit_ckpt", "q_former_model", "ckpt"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git-LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (None, "truncated"),
    ],
)
def test_files_that_hold_no_weights(
    load: Load, tmp_path: Path, key: str, content: bytes | None, message: str
) -> None:
    for name in ("weights.pth", "weights.safetensors"):
        path = tmp_path / name
        tensors = {"llama_proj.weight": torch.randn(32, 16)}
        if content is not None:
            path.write_bytes(content)
        elif path.suffix == ".pth":
            torch.save(tensors, path)
            path.write_bytes(path.read_bytes()[:1500])
        else:
            save_file(tensors, path)
            path.write_bytes(path.read_bytes()[:1500])
        with pytest.raises(CheckpointError, match=message) as caught:
            load(**{key: str(path)})
        assert str(path) in str(caught.value)


class _Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.proof,)


@pytest.mark.parametrize("key", ["vit_ckpt", "q_former_model", "ckpt", "llama_model"])
def test_code_in_a_file_is_not_executed(llm_folder: Path, load: Load, tmp_path: Path, key: str) -> None:
    proof, path = tmp_path / "proof", tmp_path / "weights.pth"
    if key == "llama_model":
        path = tmp_path / "llm" / "pytorch_model.bin"
        path.parent.mkdir()
        for file in (llm_folder / "config.json", *llm_folder.glob("tokenizer*")):
            (path.parent / file.name).write_bytes(file.read_bytes())
    torch.save({"model": _Code(proof)}, path)
    with pytest.raises(XrayGPTError):
        load(**{key: str(path.parent if key == "llama_model" else path)})
    assert not proof.exists()


def test_weights_of_another_size_are_listed(make_model: Make, load: Load, tmp_path: Path) -> None:
    make_model(freeze_qformer=False, num_query_token=5).export(tmp_path)
    with pytest.raises(CheckpointError, match=r"query_tokens: file \(1, 5, 16\), model \(1, 3, 16\)"):
        load(q_former_model=str(tmp_path / "qformer.pth"))


def other_llm(llm_folder: Path, folder: Path, **changes: Any) -> Path:
    """A language model with other weights, and other sizes if need be."""
    torch.manual_seed(5)
    config = LlamaConfig.from_pretrained(str(llm_folder))
    config.update(changes)
    LlamaForCausalLM(config).save_pretrained(str(folder))
    for file in llm_folder.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("changes", [{}, {"vocab_size": 352}, {"hidden_size": 48, "head_dim": 24}])
def test_a_projection_of_another_language_model_is_refused(
    llm_folder: Path, make_model: Make, load: Load, tmp_path: Path, changes: dict[str, int]
) -> None:
    model, file = make_model(), tmp_path / "checkpoint_best.pth"
    save_checkpoint(file, {"model": trainable_state(model), "manifest": make_manifest(model)})
    other = other_llm(llm_folder, tmp_path / "some_vicuna", **changes)
    with pytest.raises(CheckpointError) as caught:
        load(ckpt=str(file), llama_model=str(other))
    for part in (str(file), llm_folder.name, "some_vicuna", "model.llama_model"):
        assert part in str(caught.value)


def test_a_training_goes_on_with_its_language_model_only(
    llm_folder: Path, make_model: Make, load: Load, tmp_path: Path
) -> None:
    model, file = make_model(), tmp_path / "checkpoint_0.pth"
    optimizer = torch.optim.AdamW(model.llama_proj.parameters())
    model.llama_proj(torch.zeros(1, model.llama_proj.in_features)).sum().backward()
    optimizer.step()
    progress = TrainProgress()
    save_training(
        file,
        model=model,
        optimizer=optimizer,
        scaler=None,
        config={"run": {}},
        epoch=0,
        progress=progress,
        job_id="a",
    )
    restore_training(read_training(file), model=make_model(), optimizer=optimizer, scaler=None)
    other = load(llama_model=str(other_llm(llm_folder, tmp_path / "some_vicuna")))
    with pytest.raises(CheckpointError, match="some_vicuna"):
        restore_training(read_training(file), model=other, optimizer=optimizer, scaler=None)


def test_without_a_manifest_the_width_tells(
    llm_folder: Path, make_model: Make, load: Load, tmp_path: Path
) -> None:
    make_model().export(tmp_path)
    other = other_llm(llm_folder, tmp_path / "some_vicuna", hidden_size=48, head_dim=24)
    with pytest.raises(CheckpointError, match=r"(?s)width 32.*some_vicuna \(width 48"):
        load(ckpt=str(tmp_path / "projection.pth"), llama_model=str(other))


def test_a_language_model_may_be_renamed_and_rounded(
    llm_folder: Path, make_model: Make, load: Load, tmp_path: Path
) -> None:
    model, file = make_model(), tmp_path / "checkpoint_best.pth"
    manifest = make_manifest(model)
    save_checkpoint(file, {"model": trainable_state(model), "manifest": manifest})
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for path in llm_folder.iterdir():
        (renamed / path.name).write_bytes(path.read_bytes())
    loaded = load(ckpt=str(file), llama_model=str(renamed), llm_precision="bf16")
    assert torch.equal(loaded.llama_proj.weight, model.llama_proj.weight)
    del manifest["llm_layer_weights"], manifest["llm_weights"]  # in the oldest files the name is all there is
    save_checkpoint(file, {"model": trainable_state(model), "manifest": manifest})
    with pytest.raises(CheckpointError, match="renamed"):
        load(ckpt=str(file), llama_model=str(renamed))


@torch.no_grad()
def fine_tuned(llm_folder: Path, folder: Path, parts: tuple[str, ...]) -> Path:
    """The language model of `llm_folder` after a training of `parts`; all else is what it was."""
    torch.manual_seed(6)
    shutil.copytree(llm_folder, folder)
    llm = LlamaForCausalLM.from_pretrained(str(llm_folder))
    for name, weight in llm.named_parameters():
        if any(part in name for part in parts):  # of low rank, as LoRA does it
            weight += 0.01 * torch.randn(len(weight), 1) * torch.randn(1, weight.shape[1])
    llm.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("parts", [("q_proj", "v_proj"), ("mlp",), ("lm_head",)])
def test_a_fine_tuned_language_model_is_another_one(
    llm_folder: Path, make_model: Make, load: Load, tmp_path: Path, parts: tuple[str, ...]
) -> None:
    model, file = make_model(), tmp_path / "checkpoint_best.pth"
    save_checkpoint(file, {"model": trainable_state(model), "manifest": make_manifest(model)})
    tuned = fine_tuned(llm_folder, tmp_path / "tuned", parts)
    with pytest.raises(CheckpointError, match="another language model"):
        load(ckpt=str(file), llama_model=str(tuned))


@pytest.mark.parametrize("trained", ["fp32", "fp16"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_number_format_may_change(
    make_model: Make, load: Load, tmp_path: Path, trained: str, precision: str
) -> None:
    model, file = load(llm_precision=trained), tmp_path / "checkpoint_best.pth"
    save_checkpoint(file, {"model": trainable_state(model), "manifest": make_manifest(model)})
    loaded = load(ckpt=str(file), llm_precision=precision)
    assert torch.equal(loaded.llama_proj.weight, model.llama_proj.weight)


def test_earlier_manifests_know_the_embeddings_only(
    llm_folder: Path, make_model: Make, load: Load, tmp_path: Path
) -> None:
    model, file = make_model(), tmp_path / "checkpoint_best.pth"
    manifest = make_manifest(model)
    del manifest["llm_layer_weights"]
    save_checkpoint(file, {"model": trainable_state(model), "manifest": manifest})
    loaded = load(ckpt=str(file), llm_precision="bf16")
    assert torch.equal(loaded.llama_proj.weight, model.llama_proj.weight)
    with pytest.raises(CheckpointError, match="some_vicuna"):
        load(ckpt=str(file), llama_model=str(other_llm(llm_folder, tmp_path / "some_vicuna")))


@pytest.mark.parametrize("key", ["vit_ckpt", "q_former_model", "ckpt"])
def test_a_file_without_tensors_is_named(load: Load, tmp_path: Path, key: str) -> None:
    torch.save({"epoch": 3, "weights_of": {}}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="holds no tensors .*: epoch, weights_of"):
        load(**{key: str(tmp_path / "weights.pth")})


def test_a_folder_without_weights_is_named(load: Load, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no weights in it"):
        load(q_former_model=str(tmp_path))
