"""Training of the language model itself on report text: the counterpart of fine-tuning Vicuna on radiology.

The model starts from sizes and a tokenizer (a small LLaMA from nothing) or from a Hugging Face folder, and
is written as such a folder at the end, which `MiniGPT4` reads.
"""

import logging
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from xraygpt.common.errors import CheckpointError
from xraygpt.common.paths import Check, require_file
from xraygpt.common.registry import registry
from xraygpt.conversation.messages import IMAGE_PLACEHOLDER
from xraygpt.datasets.batch import source_of
from xraygpt.models.adapters import adapter_checks
from xraygpt.models.llm import (
    LanguageModelConfig,
    check_llm,
    check_tokenizer,
    load_llm,
    load_tokenizer,
    require_llm,
)
from xraygpt.models.prompted_model import PromptedConfig, PromptedModel
from xraygpt.models.prompts import prompt_row

logger = logging.getLogger(__name__)


@dataclass
class LlamaSizes:
    """Sizes of a LLaMA to be trained from nothing; the vocabulary is the tokenizer's."""

    hidden_size: int = 128
    """Width D of the hidden states."""
    intermediate_size: int = 352
    """Width of the feed-forward part."""
    num_hidden_layers: int = 4
    """Number of layers."""
    num_attention_heads: int = 4
    """Attention heads per layer."""
    num_key_value_heads: int | None = None
    """Heads of keys and values; null: as many as `num_attention_heads`."""
    max_position_embeddings: int = 512
    """Longest sequence, in tokens."""
    tie_word_embeddings: bool = False
    """Whether the output layer is the embedding table."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads")


@dataclass
class CausalLMConfig(PromptedConfig, LanguageModelConfig):
    """Settings of `CausalLM`.

    Words that stand in for an image (``image_text`` of a batch) go where a prompt has ``<ImageHere>``; the
    reports of a data set without such words are learnt without a prompt.
    """

    tokenizer: str = ""
    """Folder with the tokenizer of a LLaMA to be trained from nothing."""
    llama: LlamaSizes = field(default_factory=LlamaSizes)
    """Its sizes."""
    llama_model: str | None = None
    """Hugging Face folder of a language model to go on with, instead of `tokenizer` and `llama`."""
    ckpt: str | None = None
    """Checkpoint of such a training."""
    max_txt_len: int = 256
    """Most tokens of a text; a longer one is cut and loses its end symbol."""
    end_sym: str = "###"
    """As in `PromptedConfig`."""

    def __post_init__(self) -> None:
        if not self.tokenizer and not self.llama_model:
            raise ValueError("tokenizer must name a folder (or llama_model one to go on with)")
        if self.tokenizer and self.llama_model:
            raise ValueError("tokenizer and llama_model exclude each other: the folder has its own tokenizer")
        PromptedConfig.__post_init__(self)
        self.check_trained()


@registry.register_model("causal_lm")
class CausalLM(PromptedModel):
    """Text -> text: next-token loss on captions, after an optional prompt text.

    In a batch are ``caption``, B reports, and optionally ``prompt``, one text for all, and ``image_text``, B
    texts in place of the images; without these a prompt that holds ``<ImageHere>`` is left out.

    Args:
        llm: the language model; all of it is trained.
        tokenizer_folder: where its tokenizer came from, to be copied by `export`.
    """

    config: CausalLMConfig
    config_class: ClassVar[type] = CausalLMConfig
    CHECKPOINT = ("a trained language model", "a training of this project")
    required_parts = ("llama_model",)

    def __init__(
        self,
        config: CausalLMConfig,
        *,
        llm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        tokenizer_folder: Path,
    ) -> None:
        super().__init__()
        self.take_language_model(config, llm, tokenizer, tokenizer_folder)
        self._without_prompt: set[str] = set()
        """Data sets whose reports go without a prompt; each is said once."""

    @classmethod
    def part_checks(cls, cfg: CausalLMConfig) -> list[Check]:
        prompts = partial(cfg.check_prompts, cfg.llama_model or cfg.tokenizer)
        if cfg.llama_model is not None:
            llm = partial(check_llm, cfg.llama_model, "model.llama_model")
            return [llm, *adapter_checks(cfg.adapter, "model.adapter"), prompts]
        return [lambda: check_tokenizer(_source_folder(cfg)), prompts]

    @classmethod
    def with_random_weights(cls, cfg: CausalLMConfig, device: str | torch.device = "cpu") -> Self:
        """The model of a configuration, from sizes or from a folder."""
        folder = _source_folder(cfg)
        tokenizer = load_tokenizer(folder)
        llm = (
            load_llm(folder, cfg.load_precision(), device)
            if cfg.llama_model
            else build_llama(cfg.llama, tokenizer)
        )
        return cls(cfg, llm=llm, tokenizer=tokenizer, tokenizer_folder=folder)

    def export(self, folder: Path) -> None:
        """Write the language model as a Hugging Face folder, or its adapter as one of peft's."""
        self.export_language_model(folder / "adapter" if self.config.adapter else folder)

    def _inputs(self, samples: Any) -> tuple[list[tuple[int, ...]], None]:
        # Pieces are cut where `MiniGPT4` cuts them, so that a model trained here meets the same ids there,
        # with image embeddings between them.
        tokenizer, prompt, source = self.llama_tokenizer, samples.get("prompt", ""), source_of(samples)
        if IMAGE_PLACEHOLDER in prompt and "image_text" not in samples:
            prompt = ""
            if source not in self._without_prompt:
                self._without_prompt.add(source)
                logger.info(
                    "%s has no words to stand in for its images: its reports go without prompt", source
                )
        if IMAGE_PLACEHOLDER not in prompt:
            return [prompt_row(tokenizer, prompt, slots=0)] * len(samples["caption"]), None
        before, after = prompt.split(IMAGE_PLACEHOLDER)
        start, end = prompt_row(tokenizer, before, 0), prompt_row(tokenizer, after, 0, bos=False)
        texts = [prompt_row(tokenizer, text, 0, bos=False) for text in samples["image_text"]]
        return [(*start, *text, *end) for text in texts], None


def _source_folder(cfg: CausalLMConfig) -> Path:
    """The folder of the language model, or of the tokenizer alone."""
    if cfg.llama_model is not None:
        return require_llm(cfg.llama_model, "model.llama_model")
    source = "`xraygpt tokenizers`, or the folder of another language model"
    return require_file(cfg.tokenizer, what="a tokenizer", source=source, where="model.tokenizer")


def build_llama(sizes: LlamaSizes, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A LLaMA of the given sizes with random weights, float32."""
    if tokenizer.bos_token_id is None:
        raise CheckpointError("the tokenizer has no begin-of-text token, which LLaMA needs")
    config = LlamaConfig(
        **asdict(sizes),
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)
