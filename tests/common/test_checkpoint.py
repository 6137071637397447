"""Weight files: what is read, what is refused and why, and that a save is all or nothing."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from xraygpt.common.checkpoint import load_checkpoint, load_state, load_weights, save_checkpoint
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
