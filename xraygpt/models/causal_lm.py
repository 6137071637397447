"""Training of the language model itself on reports and conversations: as Vicuna is fine-tuned on radiology.

The model starts from sizes and a tokenizer (a small LLaMA from nothing) or from a Hugging Face folder, and
is written as such a folder at the end, which `MiniGPT4` reads.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from xraygpt.common.errors import CheckpointError, ConfigError
from xraygpt.common.paths import Check, require_file
from xraygpt.common.registry import registry
from xraygpt.conversation.messages import IMAGE_PLACEHOLDER
from xraygpt.datasets.batch import Turn, source_of
from xraygpt.models.adapters import adapter_checks
from xraygpt.models.generation import IGNORE_INDEX
from xraygpt.models.llm import (
    LanguageModelConfig,
    check_llm,
    check_positions,
    check_tokenizer,
    load_llm,
    load_tokenizer,
    require_llm,
)
from xraygpt.models.prompted_model import PromptedConfig, PromptedModel
from xraygpt.models.prompts import prompt_row

BAD_TEMPLATE = "model.prompt_template: chat: set a template of your own; that of the tokenizer"

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
    """Most tokens of a report; a longer one is cut and loses its end symbol. Also most tokens of a whole
    conversation: of a longer one as many questions with their answers are kept, from the first on, as fit. If
    not even the first fits, its answer is cut at the end; a question that leaves it less than half of the
    tokens is cut at its beginning. With `packing`, rows are filled up to this length."""
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
    """Text -> text: next-token loss on captions, after an optional prompt text, or on answers.

    In a batch are ``caption``, B reports, and optionally ``prompt``, one text for all, and ``image_text``, B
    texts in place of the images; without these a prompt that holds ``<ImageHere>`` is left out. With
    ``turns``, B conversations, the assistant's turns are learnt, each behind all that was said before, and
    generation answers the last question.

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
        self.packed_length = config.max_txt_len
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

    def _rows(self, samples: Any) -> tuple[list[list[int]], list[list[int]], Tensor | None]:
        if "turns" not in samples:
            return super()._rows(samples)
        check_positions(self.llama_model, 0, self.max_txt_len, "model.max_txt_len")
        cut = [cut_conversation(self._exchanges(turns), self.max_txt_len) for turns in samples["turns"]]
        return [row for row, _ in cut], [labels for _, labels in cut], None

    def _exchanges(self, turns: Sequence[Turn]) -> list[tuple[list[int], list[int]]]:
        """Return, for each answer, the ids of what is new before it, and its own with what ends it.

        Raises ConfigError if the chat template refuses the conversation, or writes an answer differently once
        the conversation goes on.
        """
        conversation = self.new_conversation()
        exchanges: list[tuple[list[int], list[int]]] = []
        asked = answer = ""
        for turn in turns:
            if turn["role"] == "system":
                conversation.system = turn["content"]
            elif turn["role"] == "user":
                conversation.append_message(conversation.roles[0], turn["content"])
            else:
                try:
                    new = prompt = conversation.get_prompt()
                except Exception as error:  # a template is a program, which may raise anything
                    raise ConfigError(f"{BAD_TEMPLATE} refuses a conversation: {error}") from error
                if exchanges:
                    before, found, new = prompt.removeprefix(asked).partition(answer + self.end_sym)
                    if before.strip() or not found:
                        raise ConfigError(f"{BAD_TEMPLATE} changes an answer once the conversation goes on")
                asked, answer = prompt, turn["content"]
                ids = prompt_row(self.llama_tokenizer, new, slots=0, bos=not exchanges)
                exchanges.append((list(ids), self._caption_rows([answer], self.max_txt_len)[0]))
                conversation.append_message(conversation.roles[1], answer)
        return exchanges

    def _asked(self, turns: Sequence[Turn]) -> list[int]:
        """Return the ids of a conversation up to its last answer, at most `max_txt_len` if leaving out the
        oldest questions with their answers makes it so."""
        exchanges = self._exchanges(turns)
        ids = [number for exchange in exchanges for part in exchange for number in part]
        ids = ids[: len(ids) - len(exchanges[-1][1])]
        if len(ids) <= self.max_txt_len or len(exchanges) == 1:
            return ids
        first = turns[0]["role"] == "system"
        return self._asked([*turns[:first], *turns[first + 2 :]])

    def _inputs(self, samples: Any) -> tuple[Sequence[Sequence[int]], None]:
        if "turns" in samples:
            return [self._asked(turns) for turns in samples["turns"]], None
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


def cut_conversation(
    exchanges: Sequence[tuple[Sequence[int], Sequence[int]]], longest: int
) -> tuple[list[int], list[int]]:
    """Return the ids of a conversation, cut to `longest` (`CausalLMConfig.max_txt_len`), and their labels.

    Args:
        exchanges: ids before each answer, and of the answer.
    """
    before, answer = exchanges[0]
    room = max(longest - len(answer), longest // 2)
    if len(before) > room:  # what comes first may be the begin-of-text token
        before = [*before[:1], *before[len(before) - room + 1 :]]
    row, labels = [*before, *answer], [IGNORE_INDEX] * len(before) + [*answer]
    for before, answer in exchanges[1:]:
        if len(row) + len(before) + len(answer) > longest:
            break
        row += [*before, *answer]
        labels += [IGNORE_INDEX] * len(before) + [*answer]
    return row[:longest], labels[:longest]


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
