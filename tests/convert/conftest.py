"""A model of every kind that is exported here: the shipped one, and random ones with other decoders."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from tests.models.tiny import SENTENCES, tiny_config
from xraygpt.common.config import Config
from xraygpt.convert.to_hf import Differences, export_configuration, export_model
from xraygpt.models.mini_gpt4 import MiniGPT4
from xraygpt.processors import Blip2ImageEvalProcessor

ROOT = Path(__file__).parents[2]
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


class Exported(NamedTuple):
    model: MiniGPT4
    folder: Path
    difference: Differences


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The shipped model with its LLaMA, and the folder that it was written to."""
    args = SimpleNamespace(cfg_path=str(ROOT / "eval_configs/demo_tiny.yaml"), options=None)
    folder = tmp_path_factory.mktemp("shipped") / "hf"
    difference = export_configuration(args, folder, max_shard_size="500KB")
    return Exported(MiniGPT4.from_config(Config(args).model_cfg).eval(), folder, difference)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Random models around a random decoder of a given kind, with the folders they were written to."""

    def export(kind: str) -> Exported:
        folder = tmp_path_factory.mktemp(kind)
        model = random_model(folder / "llm", kind)
        difference = export_model(model, Blip2ImageEvalProcessor(image_size=16), folder / "hf")
        return Exported(model, folder / "hf", difference)

    return export


def random_model(llm_folder: Path, kind: str, llm_precision: str = "fp32") -> MiniGPT4:
    torch.manual_seed(3)
    tokenizer = byte_level_tokenizer()
    AutoModelForCausalLM.from_config(decoder_config(kind, len(tokenizer))).save_pretrained(str(llm_folder))
    tokenizer.save_pretrained(str(llm_folder))
    model = MiniGPT4.from_config(tiny_config(llama_model=str(llm_folder), llm_precision=llm_precision)).eval()
    for part in (model.visual_encoder, model.Qformer, model.llama_proj, model.llama_model):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def decoder_config(kind: str, tokens: int) -> PreTrainedConfig:
    if kind == "opt":  # its output layer is tied to the embeddings
        return OPTConfig(vocab_size=tokens, ffn_dim=48, word_embed_proj_dim=32, **SIZES)
    if kind == "gpt_neox":  # more rows than tokens, as its published models have
        return GPTNeoXConfig(vocab_size=tokens + 5, intermediate_size=48, **SIZES)
    raise ValueError(kind)


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
