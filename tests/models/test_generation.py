"""Settings of generation, and stopping at a string."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from xraygpt.models.generation import GenerationConfig, StopOnText, cut_at_stop
from xraygpt.models.llm import load_tokenizer
from xraygpt.models.mini_gpt4 import MiniGPT4


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 0},
        {"num_beams": 0},
        {"top_p": 0.0},
        {"temperature": 0.0},
        {"repetition_penalty": 0.0},
    ],
)
def test_nonsense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        GenerationConfig(**settings)


def test_only_settings_with_a_use_are_passed_on() -> None:
    assert "temperature" not in GenerationConfig().as_kwargs()
    assert GenerationConfig(do_sample=True, temperature=0.5).as_kwargs()["temperature"] == 0.5
    assert GenerationConfig(num_beams=2, length_penalty=2.0).as_kwargs()["length_penalty"] == 2.0


@pytest.mark.parametrize("text", ["clear.###", "clear ###", "clear###", "clear.####"])
def test_a_stop_string_is_found_however_it_is_tokenized(tokenizer_folder: Path, text: str) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    ids = tokenizer(text + " and so on", add_special_tokens=False).input_ids
    stop = StopOnText(tokenizer, ["###"])
    ends = [n for n in range(1, len(ids) + 1) if stop(torch.tensor([ids[:n]])).item()]
    assert "###" in str(tokenizer.decode(ids[: ends[0]]))
    assert "###" not in str(tokenizer.decode(ids[: ends[0] - 1]))


def test_rows_stop_on_their_own(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    rows = tokenizer(["heart ###", "heart ##"], add_special_tokens=False, padding=True, return_tensors="pt")
    assert StopOnText(tokenizer, ["###"])(rows.input_ids).tolist() == [True, False]


def test_cutting() -> None:
    assert cut_at_stop(" a b ### c", ["###"]) == "a b"
    assert cut_at_stop(" a b ", ["###", ""]) == "a b"


def test_a_stop_string_may_be_written_as_several_bytes(tokenizer_folder: Path) -> None:
    """Where transformers' own criterion raises: no token of the vocabulary is a part of such a string."""
    tokenizer = load_tokenizer(tokenizer_folder)
    ids = tokenizer("37 °C", add_special_tokens=False).input_ids
    stop = StopOnText(tokenizer, ["°"])
    assert not stop(torch.tensor([ids[:-2]])).item()
    assert stop(torch.tensor([ids[:-1]])).item()


def test_a_stream_that_cannot_be_decoded_ends_with_the_error(
    make_model: Callable[..., MiniGPT4], batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    embeds, mask = model._embed_samples(batch)

    def fail(*args: Any, **kwargs: Any) -> str:
        raise IndexError("no such piece")

    monkeypatch.setattr(model.llama_tokenizer, "decode", fail)
    settings = GenerationConfig(max_new_tokens=3)
    with pytest.raises(IndexError, match="no such piece"):
        list(model.complete_stream(embeds[:1], mask[:1], settings, stops=[]))
