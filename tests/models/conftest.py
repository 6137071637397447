"""Random models of a few thousand parameters, and a SentencePiece tokenizer made on the spot."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.models.tiny import PROMPT, SENTENCES, tiny_config
from xraygpt.models.llm import load_llm, load_tokenizer
from xraygpt.models.mini_gpt4 import MiniGPT4


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=340,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        minloglevel=2,
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"})
    )
    return folder


@pytest.fixture(scope="session")
def llm_folder(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: a random LLaMA with its tokenizer."""
    folder = tmp_path_factory.mktemp("llm")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(load_tokenizer(tokenizer_folder)),
        hidden_size=32,
        intermediate_size=40,  # no multiple of 32
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))
    for file in tokenizer_folder.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def make_model(llm_folder: Path) -> Callable[..., MiniGPT4]:
    """Builds a random MiniGPT4; arguments change its configuration."""

    def make(**changes: Any) -> MiniGPT4:
        torch.manual_seed(1)
        llm, tokenizer = load_llm(llm_folder, "fp32"), load_tokenizer(llm_folder)
        model = MiniGPT4.build(
            tiny_config(llama_model=str(llm_folder), **changes), llm=llm, tokenizer=tokenizer
        )
        # Large enough that images matter for what is written.
        for part in (model.visual_encoder, model.Qformer, model.llama_proj):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, std=0.3)
        return model.eval()

    return make


@pytest.fixture
def load(llm_folder: Path) -> Callable[..., MiniGPT4]:
    """A model from the configuration keys that a user sets."""

    def build(**keys: Any) -> MiniGPT4:
        return MiniGPT4.from_config(tiny_config(**{"llama_model": str(llm_folder)} | keys))

    return build


@pytest.fixture
def batch() -> dict[str, Any]:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    return {
        "image": images,
        "caption": ["The heart is normal.", "There is a small left pleural effusion."],
        "image_id": ["a", "b"],
        "prompt": PROMPT,
    }
