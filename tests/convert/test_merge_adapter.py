"""``xraygpt merge-adapter``: a folder that computes what the language model with its adapter does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from xraygpt.cli import main
from xraygpt.common.paths import package_root

LLM = package_root() / "weights" / "tiny" / "llama"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter, with an output layer of its own, as peft writes it."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    settings = LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], init_lora_weights=False
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(LLM), settings)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1.5)
    model.save_pretrained(str(folder))
    return folder


def test_the_merged_folder_computes_the_same(adapter: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    merged = tmp_path / "merged"
    assert main(["merge-adapter", str(LLM), str(adapter), str(merged)]) == 0
    ids = torch.arange(5, 40).unsqueeze(0)
    base = AutoModelForCausalLM.from_pretrained(LLM)
    with torch.no_grad():
        plain = base(ids).logits
        expected = PeftModel.from_pretrained(base, str(adapter)).eval()(ids).logits
        found = AutoModelForCausalLM.from_pretrained(merged)(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(found, plain, atol=0.1)
    assert (
        AutoTokenizer.from_pretrained(merged)("heart").input_ids
        == AutoTokenizer.from_pretrained(LLM)("heart").input_ids
    )


def test_what_cannot_be_merged_is_named(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    (other / "adapter_model.safetensors").write_bytes(b"none")
    for base, changes, out, said in (
        (tmp_path / "nowhere", adapter, tmp_path / "a", "nowhere"),
        (LLM, tmp_path, tmp_path / "a", "no adapter_config.json"),
        (LLM, adapter, tmp_path / "full", "there already"),
        (LLM, other, tmp_path / "a", "does not fit"),
    ):
        assert main(["merge-adapter", str(base), str(changes), str(out)]) == 2
        message = capsys.readouterr().err
        assert said in message
        assert "Traceback" not in message
