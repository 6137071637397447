"""Weight files: what is read, what is refused and why, and that a save is all or nothing."""

import argparse
import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from xraygpt.common.checkpoint import (
    load_checkpoint,
    load_state,
    load_weights,
    save_checkpoint,
    weight_files,
)
from xraygpt.common.errors import CheckpointError, MissingFileError


def test_weights_are_found_directly_or_under_a_key(tmp_path: Path) -> None:
    tensor = torch.arange(3.0)
    for name, payload in (
        ("plain.pth", {"a": tensor}),
        ("model.pth", {"model": {"a": tensor}, "epoch": 3, "scaler": None}),
        ("state.bin", {"state_dict": {"a": tensor}}),
    ):
        torch.save(payload, tmp_path / name)
        assert load_weights(tmp_path / name)["a"].tolist() == [0, 1, 2]
    save_file({"a": tensor.half()}, tmp_path / "half.safetensors")
    assert load_weights(tmp_path / "half.safetensors")["a"].dtype is torch.float16


def test_shards_are_joined(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "one.safetensors")
    torch.save({"b": torch.zeros(2)}, tmp_path / "two.bin")
    index = tmp_path / "model.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.bin"}}))
    assert {name: len(value) for name, value in load_weights(index).items()} == {"a": 1, "b": 2}
    (tmp_path / "two.bin").unlink()
    with pytest.raises(MissingFileError, match=r"two\.bin"):
        load_weights(index)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git-LFS pointer"),
        (b"\n<!DOCTYPE html><html><title>Confirm</title></html>", "web page"),
        (b"", "empty"),
        (b"not a checkpoint at all", "truncated, damaged or of another format"),
        (b"access denied\n", "truncated, damaged or of another format"),
        (b'{"error": "expired"}', "truncated, damaged or of another format"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_is_recognised(
    tmp_path: Path, content: bytes, message: str, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"a": torch.randn(1000)}, path)
    else:
        save_file({"a": torch.randn(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="truncated"):
        load_weights(path)


class _Malicious:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.proof),))


@pytest.mark.parametrize("as_zip", [True, False])
def test_code_in_a_pickle_is_not_executed(tmp_path: Path, as_zip: bool) -> None:
    path, proof = tmp_path / "weights.pth", tmp_path / "proof"
    if as_zip:
        torch.save({"model": _Malicious(proof)}, path)
    else:
        path.write_bytes(pickle.dumps({"model": _Malicious(proof)}, protocol=2))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not proof.exists()


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    save_file({}, tmp_path / "a.safetensors")
    for name, keys in (("a.pth", "epoch"), ("a.safetensors", "none")):
        for skip in ((), ("language_model.",)):
            with pytest.raises(CheckpointError, match=f"holds no tensors .*top-level keys: {keys}"):
                load_weights(tmp_path / name, skip)
    torch.save([1, 2], tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="found list"):
        load_checkpoint(tmp_path / "b.pth")


def test_a_misfit_lists_all_keys_and_changes_nothing() -> None:
    module = nn.Linear(2, 3)
    before = module.weight.detach().clone()
    state = {"weight": torch.zeros(3, 5), "wieght": torch.zeros(3, 2)}
    with pytest.raises(CheckpointError) as caught:
        load_state(module, state, where="some.pth")
    text = str(caught.value)
    for part in (
        "some.pth",
        "missing from the file: bias",
        "unknown to the model: wieght",
        "(3, 5)",
        "(3, 2)",
    ):
        assert part in text
    assert torch.equal(module.weight, before)


def test_named_exceptions_are_allowed() -> None:
    module = nn.Linear(2, 3)
    state = {"weight": torch.zeros(3, 2), "extra.inv_freq": torch.ones(1)}
    load_state(module, state, where="f", ignore=[r".*inv_freq$"], expect_missing=["bias"])
    assert not module.weight.any()
    with pytest.raises(CheckpointError, match="unknown to the model"):
        load_state(module, state, where="f", ignore=["inv_freq"], expect_missing=["bias"])


def test_a_save_replaces_the_file_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "checkpoint.pth"
    save_checkpoint(path, {"epoch": 1})
    assert load_checkpoint(path) == {"epoch": 1}

    def half(payload: Any, handle: Any) -> None:
        handle.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"epoch": 2})
    assert load_checkpoint(path) == {"epoch": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["checkpoint.pth"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_what_wrappers_put_before_all_keys_is_taken_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, prefix: str
) -> None:
    path, tensors = tmp_path / f"weights{suffix}", {f"{prefix}{key}": torch.ones(2) for key in ("a.x", "b.x")}
    if suffix == ".pth":
        torch.save({"model": tensors}, path)
    else:
        save_file(tensors, path)
    with caplog.at_level(logging.INFO):
        assert set(load_weights(path)) == {"a.x", "b.x"}
    assert prefix in caplog.text
    assert set(load_weights(path, skip=("b.",))) == {"a.x"}


def test_a_prefix_that_some_keys_lack_belongs_to_the_names(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pth")
    assert set(load_weights(tmp_path / "a.pth")) == {"module.a", "b"}


def test_a_refused_pickle_names_the_class_that_was_met(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=1e-4)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"an object of argparse\.Namespace") as caught:
        load_weights(tmp_path / "a.pth")
    assert "\x1b" not in str(caught.value)


NO_WEIGHTS = {
    "NaN": torch.tensor([1.0, float("nan")]),
    "infinity": torch.tensor([1.0, -float("inf")], dtype=torch.bfloat16),
    "complex": torch.ones(2, dtype=torch.complex64),
    "sparse": torch.eye(2).to_sparse(),
    "meta": torch.ones(2, device="meta"),
    "float8_e4m3fn": torch.ones(2).to(torch.float8_e4m3fn),
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_tensors_that_are_no_weights_are_named(tmp_path: Path, kind: str) -> None:
    tensors = {"good": torch.ones(2), "bad.weight": NO_WEIGHTS[kind]}
    files = [tmp_path / "a.pth"]
    torch.save({"model": tensors}, files[0])
    if kind not in ("sparse", "meta"):  # safetensors cannot hold these
        (tmp_path / "shards").mkdir()
        files += [tmp_path / "a.safetensors", tmp_path / "shards" / "one.safetensors"]
        for file in files[1:]:
            save_file(tensors, file)
        index = tmp_path / "shards" / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "one.safetensors")}))
    for file in files:
        with pytest.raises(CheckpointError, match=f"the tensor bad\\.weight .*{kind}") as caught:
            load_weights(file if file.name != "one.safetensors" else file.parent)
        assert str(file) in str(caught.value)


def test_whole_numbers_are_no_weights_of_a_layer() -> None:
    with pytest.raises(CheckpointError, match=r"weight: file torch\.int8, model torch\.float32"):
        load_state(nn.Linear(2, 2, bias=False), {"weight": torch.ones(2, 2, dtype=torch.int8)}, where="f")


@pytest.mark.parametrize(
    "content",
    [
        '{"weight_map": {"w": "model.safetensors.index.json"}}',
        '{"weight_map": {"w": "."}}',
        '{"weight_map": {"w": "../a.safetensors"}}',
        '{"weight_map": {"w": "/a.safetensors"}}',
        '{"weight_map": {"w": "folder.bin"}}',
        '{"weight_map": {"w": 3}}',
        '{"weight_map": {"w": ["a.safetensors"]}}',
        '{"weight_map": {"w": "a.safetensors", "v": 3}}',
        '{"weight_map": {}}',
        '{"weight_map": "a.safetensors"}',
        "[]",
        "[" * 100_000,
        "1" * 6_000,
    ],
)
def test_an_index_names_files_beside_it_only(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "model"
    (folder / "folder.bin").mkdir(parents=True)
    save_file({"w": torch.ones(1)}, tmp_path / "a.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(content)
    for read in (load_weights, weight_files):
        with pytest.raises(CheckpointError) as caught:
            read(folder)
        assert str(index) in str(caught.value)


def test_an_adapter_is_told_from_a_model(tmp_path: Path) -> None:
    save_file({"base_model.model.w.lora_A.weight": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/vicuna"}')
    with pytest.raises(CheckpointError, match=r"an adapter .* for some/vicuna, .*merge-adapter"):
        load_weights(tmp_path)


@pytest.mark.parametrize(
    "manifest", ["x", [1], None, {"llama_model": torch.zeros(3)}, {"a": [torch.ones(1)]}]
)
def test_a_manifest_of_anything_but_plain_values_is_refused(tmp_path: Path, manifest: Any) -> None:
    torch.save({"model": {"w": torch.ones(1)}, "manifest": manifest}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: its entry 'manifest' is not a table"):
        load_weights(tmp_path / "a.pth")
