"""Reading a language model and its tokenizer from a folder."""

import builtins
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.models.tiny import SENTENCES, byte_level, change_json
from xraygpt.common import hf_folder
from xraygpt.common.errors import CheckpointError, ConfigError, MissingFileError
from xraygpt.models.llama_tokenizer import LlamaSentencePieceTokenizer
from xraygpt.models.llm import (
    check_llm,
    check_positions,
    check_vocabulary,
    copy_tokenizer,
    end_token_ids,
    load_llm,
    load_tokenizer,
    max_positions,
    require_llm,
)


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

    monkeypatch.setattr(hf_folder, "snapshot_download", refuse)
    with pytest.raises(MissingFileError, match=r"hf://owner/name \(model\.llama_model\): 401 owner/name"):
        require_llm("hf://owner/name", "model.llama_model")


# ---- folders as people have them


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_code_in_a_folder_is_neither_run_nor_asked_about(
    llm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def asked(question: str = "") -> str:
        raise AssertionError(question)

    monkeypatch.setattr(builtins, "input", asked)
    folder, proof = _copy(llm_folder, tmp_path / "llm"), tmp_path / "proof"
    (folder / "own.py").write_text(f"open({str(proof)!r}, 'w')\n")
    maps = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "own.C")
    changes = {"model_type": "own"} if where == "config.json" else {"tokenizer_class": "C"}
    change_json(folder / where, auto_map=maps, **changes)
    for read in (load_llm, load_tokenizer, lambda path: check_llm(str(path), "model.llama_model")):
        with pytest.raises(CheckpointError, match=f"{re.escape(str(folder))}: can only be read by .* code"):
            read(folder)
    assert not proof.exists()


def test_code_for_a_type_that_transformers_knows_is_passed_over(llm_folder: Path, tmp_path: Path) -> None:
    folder, proof = _copy(llm_folder, tmp_path / "llm"), tmp_path / "proof"
    (folder / "own.py").write_text(f"open({str(proof)!r}, 'w')\n")
    change_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "own.C", "AutoConfig": "own.C"})
    assert type(load_llm(folder)) is LlamaForCausalLM
    assert not proof.exists()


def test_of_a_folders_generation_settings_only_the_end_tokens_are_taken(
    llm_folder: Path, tmp_path: Path
) -> None:
    folder = _copy(llm_folder, tmp_path / "llm")
    settings = {"num_beams": 4, "do_sample": True, "suppress_tokens": [5], "forced_eos_token_id": 7}
    change_json(folder / "generation_config.json", eos_token_id=[2, 9, 99999, "x"], min_length=50, **settings)
    model, tokenizer = load_llm(folder), load_tokenizer(folder)
    assert {k: v for k, v in model.generation_config.to_diff_dict().items() if k in settings} == {}
    assert end_token_ids(model, tokenizer) == [2, 9]
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json: not valid JSON"):
        load_llm(folder)


def test_stop_strings_that_are_special_tokens_end_a_text(llm_folder: Path, tmp_path: Path) -> None:
    model = load_llm(llm_folder)
    tokenizer = load_tokenizer(byte_level(tmp_path / "t", "<|eot_id|>", "<|im_end|>"))
    eos, eot, im_end = tokenizer.convert_tokens_to_ids(["<|end|>", "<|eot_id|>", "<|im_end|>"])
    assert end_token_ids(model, tokenizer, ["###", ""]) == [eos, 2]
    assert end_token_ids(model, tokenizer, ["<|eot_id|>", "<|im_end|>\n"]) == [eos, 2, eot, im_end]


def test_a_character_that_a_tokenizer_does_not_know_ends_no_text(llm_folder: Path) -> None:
    model, tokenizer = load_llm(llm_folder), load_tokenizer(llm_folder)
    assert end_token_ids(model, tokenizer, [str(tokenizer.unk_token)]) == [2]


def test_control_symbols_are_single_ids(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=342,
        byte_fallback=True,
        control_symbols=["[INST]", "[/INST]"],
        minloglevel=2,
    )
    added = {"3": {"content": "[INST]", "special": True}, "4": {"content": "[/INST]", "special": True}}
    change_json(
        tmp_path / "tokenizer_config.json", tokenizer_class="LlamaTokenizer", added_tokens_decoder=added
    )
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer("[INST] The heart [/INST]", add_special_tokens=False).input_ids
    assert (ids[0], ids[-1]) == (3, 4)
    assert len(tokenizer) == 342
    assert str(tokenizer.decode(ids, skip_special_tokens=True)).strip() == "The heart"


@pytest.mark.parametrize("pad", ["<pad>", "[PAD]", "<|pad|>"])
@pytest.mark.parametrize("kind", ["sentencepiece", "fast"])
def test_a_padding_token_without_a_row_is_dropped(
    llm_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, pad: str
) -> None:
    if kind == "fast":
        folder = byte_level(tmp_path / "llm", pad, pad_token=pad)
        rows = 257
    else:
        folder = _copy(llm_folder, tmp_path / "llm")
        rows = len(load_tokenizer(folder))
        change_json(folder / "added_tokens.json", **{pad: rows})
        change_json(folder / "tokenizer_config.json", pad_token=pad)
    change_json(folder / "config.json", vocab_size=rows)
    with caplog.at_level(logging.INFO):
        tokenizer = load_tokenizer(folder)
    assert f"dropped {pad}" in caplog.text
    assert len(tokenizer) == rows
    assert max(tokenizer(f"a {pad} b").input_ids) < rows
    assert tokenizer.pad_token == tokenizer.eos_token


def test_other_tokens_without_a_row_are_refused(llm_folder: Path, tmp_path: Path) -> None:
    folder = _copy(llm_folder, tmp_path / "llm")
    change_json(folder / "added_tokens.json", **{"<turn>": len(load_tokenizer(folder))})
    with pytest.raises(CheckpointError, match=r"no embedding for <turn>"):
        check_vocabulary(load_llm(folder), load_tokenizer(folder))


def test_ids_without_a_piece_decode_to_nothing(tokenizer_folder: Path, tmp_path: Path) -> None:
    for folder in (tokenizer_folder, byte_level(tmp_path / "t")):
        tokenizer = load_tokenizer(folder)
        ids = tokenizer("The heart", add_special_tokens=False).input_ids
        mixed = [len(tokenizer) + 5, *ids, len(tokenizer)]
        assert tokenizer.decode(mixed, skip_special_tokens=True) == "The heart"


def test_all_files_of_a_tokenizer_are_copied(llm_folder: Path, tmp_path: Path) -> None:
    names = (
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "added_tokens.json",
        "special_tokens_map.json",
    )
    folder = _copy(llm_folder, tmp_path / "llm")
    for name in names:
        (folder / name).write_text("{}")
    (folder / "model.safetensors.index.json").write_text("{}")
    copy_tokenizer(folder, tmp_path / "copy")
    wanted = {*names, "tokenizer.model", "tokenizer_config.json"}
    assert {file.name for file in (tmp_path / "copy").iterdir()} - {"tokenizer.vocab"} == wanted


def test_an_adapter_is_no_language_model(llm_folder: Path, tmp_path: Path) -> None:
    folder = _copy(llm_folder, tmp_path / "llm")
    change_json(folder / "adapter_config.json", base_model_name_or_path="some/vicuna")
    for read in (load_llm, lambda path: require_llm(str(path), "model.llama_model")):
        with pytest.raises(CheckpointError, match="an adapter .* for some/vicuna"):
            read(folder)


@pytest.mark.parametrize("sharded", [False, True])
def test_weights_that_are_not_finite_are_named(llm_folder: Path, tmp_path: Path, sharded: bool) -> None:
    folder, key = _copy(llm_folder, tmp_path / "llm"), "model.layers.1.mlp.up_proj.weight"
    weights = load_file(str(folder / "model.safetensors"))
    weights[key][0, 0] = float("nan")
    file = folder / "model.safetensors"
    if sharded:
        file.unlink()
        file = folder / "two.safetensors"
        save_file(
            {n: t for n, t in weights.items() if n != key}, folder / "one.safetensors", {"format": "pt"}
        )
        places = {name: "two.safetensors" if name == key else "one.safetensors" for name in weights}
        change_json(folder / "model.safetensors.index.json", metadata={}, weight_map=places)
        weights = {key: weights[key]}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(file))}: the tensor {key} holds NaN"):
        load_llm(folder)


def test_shards_outside_the_folder_are_refused(llm_folder: Path, tmp_path: Path) -> None:
    folder = _copy(llm_folder, tmp_path / "llm")
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    weights = load_file(str(tmp_path / "model.safetensors"))
    index = folder / "model.safetensors.index.json"
    change_json(index, metadata={}, weight_map=dict.fromkeys(weights, "../model.safetensors"))
    with pytest.raises(CheckpointError, match=re.escape(str(index))):
        load_llm(folder)


def test_positions_are_limited_with_the_numbers() -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=4, n_layer=1, n_head=1, n_positions=64))
    check_positions(gpt2, 24, 40, "model.max_txt_len")
    with pytest.raises(ConfigError, match=r"max_txt_len is 41 .* 24 positions: 65 .* has 64\..* 40 at most"):
        check_positions(gpt2, 24, 41, "model.max_txt_len")


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        ({"rope_type": "default"}, 64),
        ({"rope_type": "linear", "factor": 4.0}, 256),
        ({"rope_type": "dynamic", "factor": 2.0}, 128),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, 64),
    ],
)
def test_stretched_rotary_positions_count(rope: dict[str, Any], positions: int) -> None:
    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = LlamaConfig(
        **sizes,
        num_attention_heads=1,
        max_position_embeddings=64,
        rope_parameters={"rope_theta": 1e4, **rope},
    )
    assert max_positions(LlamaForCausalLM(config)) == positions
