"""Sizes, texts and tokenizers of the random models in these tests."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from xraygpt.models.eva_vit import VisionConfig
from xraygpt.models.llm import load_tokenizer
from xraygpt.models.mini_gpt4 import MiniGPT4, MiniGPT4Config
from xraygpt.models.Qformer import QformerConfig

CASES = Path(__file__).resolve().parents[1] / "parity" / "cases"
"""Where a LLaMA tokenizer lies."""
LLM_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
SENTENCES = [
    "The heart is normal in size. The lungs are clear.",
    "There is a small left pleural effusion. No pneumothorax.",
    "Findings: right lower zone consolidation. Impression: pneumonia.",
    "###Patient: <Img><ImageHere></Img> Describe this chest x-ray in detail. ###Doctor: ",
    "Cardiomegaly with mild pulmonary oedema, unchanged.",
]
VISION_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
"""Of a vision model of transformers that gives 16 patches."""
TEMPLATE = "###Patient: {} ###Doctor: "
PROMPT = TEMPLATE.format("<Img><ImageHere></Img> Describe this chest x-ray.")


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


def report_model(**settings: Any) -> MiniGPT4:
    """A random model with a LLaMA of two layers, the same for the same settings."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(CASES)
    llm = LlamaForCausalLM(LlamaConfig(**LLM_SIZES, vocab_size=len(tokenizer), max_position_embeddings=256))
    return MiniGPT4.build(tiny_config(max_txt_len=150, **settings), llm=llm, tokenizer=tokenizer)


def change_json(file: Path, **values: Any) -> None:
    """Change keys of a JSON file, which need not be there."""
    old = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(old | values))


def byte_level(folder: Path, *special: str, eos: str = "<|end|>", **settings: Any) -> Path:
    """Write a tokenizer of single bytes and special tokens, of the kind that Llama 3 and GPT-2 have."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([eos, *special])
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    change_json(
        folder / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        eos_token=eos,
        **settings,
    )
    return folder
