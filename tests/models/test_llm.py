"""Reading a language model and its tokenizer from a folder."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from tests.models.tiny import SENTENCES
from xraygpt.common.errors import CheckpointError, MissingFileError
from xraygpt.models import llm
from xraygpt.models.llama_tokenizer import LlamaSentencePieceTokenizer
from xraygpt.models.llm import check_vocabulary, load_llm, load_tokenizer, require_llm


def _copy(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


@pytest.mark.parametrize(
    "text", [*SENTENCES, "", " two  blanks ", "line\nbreak", "37°C “x”", ".###", "tab\t"]
)
def test_ids_are_those_of_sentencepiece_and_text_comes_back(tokenizer_folder: Path, text: str) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    assert isinstance(tokenizer, LlamaSentencePieceTokenizer)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids == tokenizer.sp_model.encode(text)
    assert tokenizer(text).input_ids == [1, *ids]
    assert tokenizer.decode([1, *ids], skip_special_tokens=True) == text


def test_special_tokens(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer("</s>", add_special_tokens=False).input_ids == [2]
    assert tokenizer.padding_side == "right"


def test_added_tokens_get_the_next_ids(tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = _copy(tokenizer_folder, tmp_path / "t")
    size = len(load_tokenizer(folder))
    (folder / "added_tokens.json").write_text(json.dumps({"[B]": size + 1, "[A]": size}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer("[A][B]", add_special_tokens=False).input_ids == [size, size + 1]


def test_weights_are_read_in_the_format_asked_for(llm_folder: Path) -> None:
    assert load_llm(llm_folder, "bf16").dtype is torch.bfloat16


def _bare(folder: Path, target: Path) -> Path:
    _copy(folder, target)
    for file in target.glob("*.safetensors"):
        file.unlink()
    return target


def test_what_is_missing_is_named(llm_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere.*model\.llama_model"):
        require_llm(str(tmp_path / "nowhere"), "model.llama_model")
    with pytest.raises(MissingFileError, match=r"no config\.json"):
        require_llm(str(tmp_path), "model.llama_model")
    with pytest.raises(MissingFileError, match="no weights"):
        load_llm(_bare(llm_folder, tmp_path / "bare"))
    (tmp_path / "bare" / "tokenizer.model").unlink()
    with pytest.raises(MissingFileError, match="no tokenizer"):
        load_tokenizer(tmp_path / "bare")


def test_a_pointer_and_a_misfit_are_recognised(llm_folder: Path, tmp_path: Path) -> None:
    folder = _bare(llm_folder, tmp_path / "pointer")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="Git-LFS"):
        load_llm(folder)
    (folder / "model.safetensors").write_text("access denied")
    with pytest.raises(CheckpointError, match=re.escape(str(folder))):
        load_llm(folder)
    state = load_llm(llm_folder, "fp32").state_dict()
    del state["model.norm.weight"]
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"missing \['model\.norm\.weight'\]"):
        load_llm(folder)


def test_a_tokenizer_of_another_model_is_refused(llm_folder: Path) -> None:
    tokenizer = load_tokenizer(llm_folder)
    tokenizer.add_tokens(["[MORE]"])
    with pytest.raises(CheckpointError, match="do not belong together"):
        check_vocabulary(load_llm(llm_folder, "fp32"), tokenizer)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", b"access denied", None])
def test_a_damaged_sentencepiece_model_is_named(
    tokenizer_folder: Path, tmp_path: Path, content: bytes | None
) -> None:
    file = _copy(tokenizer_folder, tmp_path / "t") / "tokenizer.model"
    file.write_bytes(file.read_bytes()[:3000] if content is None else content)
    with pytest.raises(CheckpointError, match=re.escape(str(file))):
        load_tokenizer(file.parent)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json"])
def test_broken_settings_of_a_tokenizer_are_named(tokenizer_folder: Path, tmp_path: Path, name: str) -> None:
    folder = _copy(tokenizer_folder, tmp_path / "t")
    if name == "tokenizer.json":
        (folder / "tokenizer.model").unlink()
    (folder / name).write_text('{"tokenizer_class": ')
    with pytest.raises(CheckpointError, match=re.escape(str(folder))):
        load_tokenizer(folder)


def test_what_the_hub_refuses_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> str:
        raise RuntimeError(f"401 {name}")

    monkeypatch.setattr(llm, "snapshot_download", refuse)
    with pytest.raises(MissingFileError, match=r"hf://owner/name \(model\.llama_model\): 401 owner/name"):
        require_llm("hf://owner/name", "model.llama_model")
