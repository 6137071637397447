"""Training of the language model on text, and its export."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel

from tests.models.tiny import SENTENCES, TEMPLATE
from xraygpt.common.config import build_typed
from xraygpt.common.errors import DataError, MissingFileError
from xraygpt.datasets.batch import collate
from xraygpt.datasets.builders.image_text_pair_builder import (
    OpenIBuilder,
    PhantomBuilder,
    PhantomConfig,
    PhantomSplit,
)
from xraygpt.models.causal_lm import CausalLM, CausalLMConfig, LlamaSizes
from xraygpt.models.generation import GenerationConfig
from xraygpt.models.llm import load_llm, load_tokenizer
from xraygpt.models.prompts import caption_rows

SIZES = LlamaSizes(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)


@pytest.fixture
def model(tokenizer_folder: Path) -> CausalLM:
    torch.manual_seed(0)
    return CausalLM.from_config(CausalLMConfig(tokenizer=str(tokenizer_folder), llama=SIZES))


def test_it_learns_its_texts_and_is_read_back(model: CausalLM, tmp_path: Path) -> None:
    prompt = TEMPLATE.format("<ImageHere>")
    samples: dict[str, Any] = {"caption": SENTENCES[:3], "image_text": ["a", "b", "c"], "prompt": prompt}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = model(samples)["loss"].item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(samples)["loss"]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * first
    generation = GenerationConfig(max_new_tokens=64)
    assert model.generate(samples, generation) == SENTENCES[:3]
    details = model.generate_detailed(samples, generation)
    assert [report.text for report in details] == SENTENCES[:3]
    assert {report.stop_reason for report in details} == {"stop_string"}

    model.export(tmp_path)
    again = CausalLM.from_config(CausalLMConfig(llama_model=str(tmp_path)))
    torch.testing.assert_close(again(samples)["loss"], model(samples)["loss"])
    assert load_llm(tmp_path, "fp32").config.vocab_size == len(load_tokenizer(tmp_path))


def test_loss_is_that_of_the_caption_and_its_end(model: CausalLM) -> None:
    samples = {"caption": ["The heart is normal.", "Clear."]}
    rows = caption_rows(model.llama_tokenizer, samples["caption"], "###", 256)
    losses = []
    for row in rows:
        ids = torch.tensor([[1, *row]])
        logits = model.llama_model(input_ids=ids).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    output = model(samples)
    torch.testing.assert_close(output["loss"], torch.cat(losses).mean())
    assert output["num_targets"] == sum(map(len, rows))


def test_phantoms_with_keywords_and_real_reports_without_are_mixed(
    model: CausalLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "image").mkdir()
    rows = [{"image_id": "CXR1", "caption": "The heart is normal."}]
    (tmp_path / "filter_cap.json").write_text(json.dumps({"annotations": rows}))
    section = {"data_type": "text", "build_info": {"storage": str(tmp_path)}}
    openi = OpenIBuilder(build_typed(OpenIBuilder.config_class, section, where="openi"))
    phantom = PhantomBuilder(PhantomConfig(data_type="text", splits={"train": PhantomSplit(seed=9, count=2)}))
    datasets = [builder.build_datasets()["train"] for builder in (phantom, openi)]
    words, plain = (collate([data[0]], TEMPLATE.format("<ImageHere>")) for data in datasets)
    with caplog.at_level(logging.INFO):
        assert model(words)["loss"].isfinite()
        alone = {"caption": plain["caption"], "prompt": ""}
        for _ in range(2):
            assert torch.equal(model(plain)["loss"], model(alone)["loss"])
    assert caplog.text.count("'openi' has no words to stand in for its images") == 1


def test_no_text_is_refused(model: CausalLM) -> None:
    model.end_sym = ""
    with pytest.raises(DataError, match="no text to learn"):
        model({"caption": [""]})


@pytest.mark.parametrize("settings", [{}, {"tokenizer": "t", "llama_model": "m"}])
def test_where_it_starts_from_must_be_said(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        CausalLMConfig(**settings)


def test_all_that_is_missing_is_said(tmp_path: Path) -> None:
    where = {"ckpt": str(tmp_path / "c.pth"), "prompt_path": str(tmp_path / "p.txt")}
    for key in ("tokenizer", "llama_model"):
        with pytest.raises(MissingFileError) as caught:
            CausalLM.check_files(CausalLMConfig(**where, **{key: str(tmp_path / "folder")}))
        assert all(part in str(caught.value) for part in ("c.pth", "p.txt", "folder", f"model.{key}"))


def test_a_tokenizer_of_two_files_is_exported_too(tmp_path: Path) -> None:
    """vocab.json and merges.txt, as GPT-2, OPT and BioGPT have them."""
    folder, end = tmp_path / "gpt2", "<|endoftext|>"
    sizes = {"vocab_size": 257, "n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 16}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=256, eos_token_id=256)).save_pretrained(str(folder))
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), end]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), end)
    settings = json.dumps({"tokenizer_class": "GPT2Tokenizer", **names})
    (folder / "tokenizer_config.json").write_text(settings)
    CausalLM.from_config(CausalLMConfig(llama_model=str(folder))).export(tmp_path / "out")
    again = CausalLM.from_config(CausalLMConfig(llama_model=str(tmp_path / "out")))
    assert again.llama_tokenizer("heart").input_ids == load_tokenizer(folder)("heart").input_ids
