"""Random models of a few thousand parameters, and a SentencePiece tokenizer made on the spot."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from xraygpt.models.eva_vit import VisionConfig
from xraygpt.models.llm import load_llm, load_tokenizer
from xraygpt.models.mini_gpt4 import MiniGPT4, MiniGPT4Config
from xraygpt.models.Qformer import QformerConfig

SENTENCES = [
    "The heart is normal in size. The lungs are clear.",
    "There is a small left pleural effusion. No pneumothorax.",
    "Findings: right lower zone consolidation. Impression: pneumonia.",
    "###Patient: <Img><ImageHere></Img> Describe this chest x-ray in detail. ###Doctor: ",
    "Cardiomegaly with mild pulmonary oedema, unchanged.",
]
TEMPLATE = "###Patient: {} ###Doctor: "
PROMPT = TEMPLATE.format("<Img><ImageHere></Img> Describe this chest x-ray.")


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
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))
    for file in tokenizer_folder.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def tiny_config(**changes: Any) -> MiniGPT4Config:
    settings: dict[str, Any] = {
        "vision": VisionConfig(patch_size=8, embed_dim=24, depth=2, num_heads=2, mlp_ratio=2.0),
        "qformer": QformerConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        ),
        "vit_ckpt": None,
        "q_former_model": None,
        "vit_precision": "fp32",
        "image_size": 16,
        "num_query_token": 3,
        "max_txt_len": 40,
        "end_sym": "###",
        "prompt_template": TEMPLATE,
        "prompt": "<Img><ImageHere></Img> Describe this chest x-ray.",
    }
    return MiniGPT4Config(**settings | changes)


@pytest.fixture
def make_model(llm_folder: Path) -> Callable[..., MiniGPT4]:
    """Builds a random MiniGPT4; arguments change its configuration."""

    def make(**changes: Any) -> MiniGPT4:
        torch.manual_seed(1)
        llm, tokenizer = load_llm(llm_folder, "fp32"), load_tokenizer(llm_folder)
        model = MiniGPT4(
            tiny_config(llama_model=str(llm_folder), **changes), llm=llm, tokenizer=tokenizer
        )
        # Large enough that images matter for what is written.
        torch.nn.init.normal_(model.llama_proj.weight, std=1.0)
        return model.eval()

    return make


@pytest.fixture
def batch() -> dict[str, Any]:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    return {
        "image": images,
        "caption": ["The heart is normal.", "There is a small left pleural effusion."],
        "image_id": ["a", "b"],
        "prompt": PROMPT,
    }
