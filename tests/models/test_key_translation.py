"""Hugging Face's BLIP-2 keys: one table, two directions, checked against the installed transformers."""

import pytest
import torch
from torch import Tensor
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval

from tests.models.pinned_keys import pinned_keys
from xraygpt.common.errors import CheckpointError
from xraygpt.models.key_translation import (
    from_hf_blip2,
    join_biases,
    split_biases,
    to_hf_blip2,
    translate_eva_keys,
)


def published(cls: type[torch.nn.Module], **changes: object) -> dict[str, Tensor]:
    """The state of a full-size model with OPT-2.7b, without memory."""
    with torch.device("meta"):
        model = cls(Blip2Config(**changes))  # the defaults are those of blip2-opt-2.7b
    return model.state_dict()


def test_every_key_of_the_published_model_has_its_place_at_full_size() -> None:
    state = from_hf_blip2(published(Blip2ForConditionalGeneration))
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    image_half = ("visual_encoder.", "ln_vision.", "Qformer.", "query_tokens")
    wanted = {
        name: entry.shape
        for name, entry in pinned_keys().items()
        if name.startswith(image_half) and not entry.is_buffer
    }
    assert {name: shape for name, shape in shapes.items() if name.startswith(image_half)} == wanted
    others = {name.split(".")[0] for name in shapes if not name.startswith(image_half)}
    assert others == {"llama_proj", "llama_model"}


@pytest.mark.parametrize("cls", [Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval])
def test_there_and_back_are_the_same_keys(cls: type[torch.nn.Module]) -> None:
    changes = (
        {} if cls is Blip2ForConditionalGeneration else {"qformer_config": {"use_qformer_text_input": True}}
    )
    state = published(cls, **changes)
    assert {n: v.shape for n, v in to_hf_blip2(from_hf_blip2(state)).items()} == {
        n: v.shape for n, v in state.items()
    }


def test_biases_of_queries_and_values_are_joined_and_split() -> None:
    query, value = torch.arange(3.0), torch.arange(3.0) + 7
    split = {"3.attn.q_bias": query, "3.attn.v_bias": value, "norm.bias": value}
    joined = join_biases(split)
    assert joined.keys() == {"3.attn.qkv.bias", "norm.bias"}
    assert joined["3.attn.qkv.bias"].tolist() == [0, 1, 2, 0, 0, 0, 7, 8, 9]
    again = split_biases(joined)
    assert again.keys() == split.keys()
    assert all(torch.equal(again[key], split[key]) for key in split)


def test_other_files_pass_and_unknown_keys_are_named() -> None:
    eva = {"blocks.0.attn.qkv.bias": torch.arange(6.0), "head.bias": torch.ones(1)}
    assert from_hf_blip2(eva) == eva
    assert set(translate_eva_keys(eva, depth=1)) == {"blocks.0.attn.q_bias", "blocks.0.attn.v_bias"}
    for translate in (from_hf_blip2, to_hf_blip2):
        with pytest.raises(CheckpointError, match=r"vision_model\.neck\.bias"):
            translate({"vision_model.neck.bias": torch.ones(1)})
