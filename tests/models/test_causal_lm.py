"""Training of the language model on text, and its export."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.tiny import SENTENCES, TEMPLATE
from xraygpt.common.errors import DataError
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

    model.export(tmp_path)
    again = CausalLM.from_config(CausalLMConfig(llama_model=str(tmp_path)))
    assert torch.equal(again(samples)["loss"], model(samples)["loss"])
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


def test_a_prompt_for_an_image_needs_words_in_its_place(model: CausalLM) -> None:
    with pytest.raises(DataError, match="stand in"):
        model({"caption": ["Clear."], "prompt": "<ImageHere>"})
    model.end_sym = ""
    with pytest.raises(DataError, match="no text to learn"):
        model({"caption": [""]})


@pytest.mark.parametrize("settings", [{}, {"tokenizer": "t", "llama_model": "m"}])
def test_where_it_starts_from_must_be_said(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        CausalLMConfig(**settings)
