"""What the models with a language model share, whatever stands in their prompts: the loss of reports, and
writing them.

Shapes: B rows, Q positions for each image, T positions in all, D width, n tokens written, V vocabulary.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import GenerationConfig as HFGenerationConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList, TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_layers import GradientCheckpointingLayer

from xraygpt.common.errors import ConfigError, DataError
from xraygpt.common.generation import GenerationConfig
from xraygpt.common.hf_folder import fetched
from xraygpt.common.paths import HUB_PREFIX, is_remote, resolve_path
from xraygpt.common.run_record import writing
from xraygpt.conversation.chat_template import chat_format, render_chat
from xraygpt.conversation.messages import (
    CHAT,
    IMAGE_PLACEHOLDER,
    Conversation,
    check_template,
    fill_template,
    trained_conversation,
)
from xraygpt.models.adapters import add_adapter, has_adapter, save_adapter
from xraygpt.models.base_model import BaseModel, freeze, is_frozen
from xraygpt.models.generation import (
    IGNORE_INDEX,
    GeneratedReport,
    StopOnText,
    cut_at_stop,
    lm_loss,
    told_reports,
    without_begun_stop,
)
from xraygpt.models.llm import (
    check_positions,
    check_same_llm,
    check_vocabulary,
    copy_tokenizer,
    embedding_table,
    end_token_ids,
    llm_facts,
    load_tokenizer,
    max_positions,
)
from xraygpt.models.parts import recompute_activations
from xraygpt.models.prompts import (
    IMAGE_SLOT,
    caption_rows,
    check_packing,
    pad_rows,
    read_prompts,
    separate,
    share_rows,
)


@dataclass
class PromptedConfig:
    """How a language model is prompted for a report, and what ends one."""

    prompt_path: str = ""
    """File with one prompt per line, each with ``<ImageHere>``; empty: no text around the image."""
    prompt_template: str = ""
    """What a prompt is put into, e.g. ``###Patient: {} ###Doctor: ``; empty: used as it is; ``chat``: the
    chat template of the language model's tokenizer."""
    prompt: str = ""
    """One prompt, instead of a file of them."""
    max_txt_len: int = 32
    """Most tokens of a report; a longer one is cut and loses its end symbol."""
    end_sym: str = "\n"
    """What closes a report, and ends generation; with ``prompt_template: chat`` the template's own end of a
    turn does, and this is left out."""
    packing: bool = False
    """Put several reports of a batch into one row where they fit, each seeing only itself: the same losses
    with less padding."""

    def __post_init__(self) -> None:
        check_template(self.prompt_template)
        if self.prompt and self.prompt.count(IMAGE_PLACEHOLDER) != 1:
            raise ValueError(f"prompt must hold {IMAGE_PLACEHOLDER} exactly once")
        if self.prompt and self.prompt_path:
            raise ValueError("prompt and prompt_path exclude each other")
        if self.max_txt_len < 1:
            raise ValueError("max_txt_len must be at least 1")

    def prompts(self) -> list[str]:
        """The prompts of the training in their template; none: no text around the image.

        Raises MissingFileError or ConfigError if there is no prompt file, or no prompt in it.
        """
        if self.prompt:
            return [fill_template(self.prompt_template, self.prompt)]
        return read_prompts(self.prompt_path, self.prompt_template) if self.prompt_path else []

    def check_prompts(self, folder: str) -> None:
        """Check the prompts, with the chat template of the tokenizer in a folder, if that is here.

        Raises as `prompts`, or ConfigError if the template cannot be used.
        """
        self.prompts()
        if self.prompt_template == CHAT and not is_remote(folder):
            chat_format(load_tokenizer(Path(resolve_path(folder))), self, folder)


class PromptedModel(BaseModel):
    """Base of the models whose language model reads a prompt and writes a report behind it."""

    llama_model: PreTrainedModel
    llama_tokenizer: PreTrainedTokenizerBase
    config: Any
    max_txt_len: int
    tokens_per_image = 0
    """Q; 0: images do not come into prompts."""
    static_cache = False
    """Write with a cache of the full length from the start, with which transformers compiles the language
    model on a GPU."""
    packed_length = 0
    """Positions up to which ``packing`` fills rows; those of the longest sample of a batch at least."""

    def take_language_model(
        self, config: Any, llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: object
    ) -> None:
        """Set the language model, what of it is trained and how it is prompted; a template of its tokenizer
        is written out. `config` is a `PromptedConfig` and a `LanguageModelConfig`.

        Raises CheckpointError if the tokenizer is another model's, and ConfigError, naming its `folder`, if
        it has no chat template that can be used.
        """
        check_vocabulary(llm, tokenizer)
        self.answer_start, self._in_chat_format = "", config.prompt_template == CHAT
        if self._in_chat_format:
            template, self.answer_start, end = chat_format(tokenizer, config, folder)
            config = replace(config, prompt_template=template, end_sym=end)
        self.config = config
        self.prompt_template, self.end_sym = config.prompt_template, config.end_sym
        self.max_txt_len, self.prompt_list = config.max_txt_len, config.prompts()
        self.llama_model, self.llama_tokenizer, self._llm_folder = llm, tokenizer, str(folder)
        # Weights without content: of the doctor, whatever device they say they are on; or still in files.
        table = embedding_table(llm).weight
        empty = table.untyped_storage().device.type == "meta" or hasattr(table, "read")
        if config.packing and not empty:
            self.check_packing()
        if not config.weights_are_trained():
            freeze(llm)
        elif config.freeze_embeddings:
            freeze(embedding_table(llm))
            llm.get_output_embeddings().requires_grad_(False)
        if config.llm_grad_checkpoint:
            recompute_activations(llm)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if mode and self.config.llm_grad_checkpoint:
            # transformers recomputes in training mode only, in which a frozen language model never is; its
            # layers themselves, unlike what is in them, do nothing else in it.
            for module in self.llama_model.modules():
                if isinstance(module, GradientCheckpointingLayer):
                    module.training = True
        return self

    def add_adapters(self, cfg: Any) -> None:
        super().add_adapters(cfg)
        if cfg.adapter is not None:
            facts = add_adapter(self.llama_model, cfg.adapter, "model.adapter")
            if cfg.adapter.path:
                check_same_llm({}, facts, self.language_model_facts(), f"the adapter {cfg.adapter.path}")

    def language_model_facts(self) -> dict[str, Any]:
        """What tells this language model from others; plain values."""
        sizes = self.llama_model.config
        facts = {"llm_hidden_size": int(sizes.hidden_size), "vocab_size": int(sizes.vocab_size)}
        return facts | llm_facts(self.llama_model, self._llm_folder)

    def export_language_model(self, folder: Path) -> None:
        """Write a trained language model as a Hugging Face folder, or its adapter as one of peft's."""
        source = Path(resolve_path(self._llm_folder))
        if has_adapter(self.llama_model):
            base = self._llm_folder.removeprefix(HUB_PREFIX) if is_remote(self._llm_folder) else str(source)
            save_adapter(self.llama_model, folder, base, self.language_model_facts())
        elif not is_frozen(self.llama_model):
            if is_remote(self._llm_folder):
                source = fetched(self._llm_folder, "model.llama_model")
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                self.llama_model.save_pretrained(str(folder))
                if source.resolve() != folder.resolve():
                    copy_tokenizer(source, folder)

    def check_packing(self) -> None:
        """Raise ConfigError if the language model cannot keep the reports of a row apart."""
        check_packing(self.llama_model)

    @property
    def max_positions(self) -> int:
        """Most positions the language model was made for."""
        return max_positions(self.llama_model)

    @property
    def stop_strings(self) -> list[str]:
        """Strings that end a report."""
        return [self.end_sym] if self.end_sym else []

    def new_conversation(self) -> Conversation:
        """A conversation whose first prompt is exactly a prompt of the training."""
        conversation = trained_conversation(self.prompt_template, self.end_sym)
        if self._in_chat_format:
            conversation.render = partial(render_chat, self.llama_tokenizer)
        return conversation

    @torch.no_grad()
    def generate(self, samples: Any, generation: GenerationConfig | None = None) -> list[str]:
        embeds, mask = self._embed_samples(samples)
        return self.complete(embeds, mask, generation or GenerationConfig(), self.stop_strings)[0]

    @torch.no_grad()
    def generate_detailed(self, samples: Any, generation: GenerationConfig) -> list[GeneratedReport]:
        llm, tokenizer, stops = self.llama_model, self.llama_tokenizer, self.stop_strings
        embeds, mask = self._embed_samples(samples)
        _, ids = self.complete(embeds, mask, generation, stops)

        def logits_of(rows: slice) -> Tensor:
            return self._logits(embeds[rows], mask[rows], ids[rows])

        return told_reports(tokenizer, ids, end_token_ids(llm, tokenizer, stops), logits_of, stops)

    @torch.no_grad()
    def complete(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        generation: GenerationConfig,
        stops: Sequence[str],
        streamer: BaseStreamer | None = None,
    ) -> tuple[list[str], Tensor]:
        """Continue embedded prompts; return the texts, cut before the first stop string, and the ids (B, n).

        inputs_embeds (B, T, D) with padding on the left, attention_mask (B, T). Raises ConfigError if T is 0,
        or the language model has not enough positions for `generation.max_new_tokens`.
        """
        llm, tokenizer = self.llama_model, self.llama_tokenizer
        if not inputs_embeds.shape[1]:
            raise ConfigError(
                "nothing to begin a text with: there is no prompt, and neither the tokenizer nor its chat "
                "template has a begin-of-text token; set model.prompt_path"
            )
        check_positions(llm, inputs_embeds.shape[1], generation.max_new_tokens, "max_new_tokens")
        write: Any = llm.generate
        ids: Tensor = write(
            inputs_embeds=inputs_embeds.to(llm.dtype),
            attention_mask=attention_mask,
            generation_config=HFGenerationConfig(
                **generation.as_kwargs(),
                cache_implementation="static" if self.static_cache else None,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=end_token_ids(llm, tokenizer, stops),
                pad_token_id=tokenizer.pad_token_id,
            ),
            stopping_criteria=StoppingCriteriaList([StopOnText(tokenizer, stops)] if any(stops) else []),
            streamer=streamer,
            synced_gpus=False,  # sharded weights are whole while reports are written: no process waits
        )
        texts = tokenizer.batch_decode(ids.tolist(), skip_special_tokens=True)
        return [cut_at_stop(text, stops) for text in texts], ids

    def complete_stream(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        generation: GenerationConfig,
        stops: Sequence[str],
    ) -> Iterator[str]:
        """Like `complete` for one row, yielding the growing text by words; the last item is the whole answer.

        A beam search changes its mind about what was written, so with beams only the answer is yielded.
        """
        if generation.num_beams > 1:
            yield self.complete(inputs_embeds, attention_mask, generation, stops)[0][0]
            return
        streamer = TextIteratorStreamer(self.llama_tokenizer, skip_special_tokens=True)
        answer: Future[str] = Future()

        def run() -> None:
            try:
                texts, _ = self.complete(inputs_embeds, attention_mask, generation, stops, streamer)
                answer.set_result(texts[0])
            except BaseException as error:  # raised again in the caller's thread
                answer.set_exception(error)
            finally:
                # Not `end`, which decodes what it has first and, if that fails, leaves the caller waiting.
                streamer.on_finalized_text("", stream_end=True)

        threading.Thread(target=run, daemon=True).start()
        written, shown = "", None
        for piece in streamer:
            written += piece
            text = without_begun_stop(cut_at_stop(written, stops), stops)
            if text != shown:
                shown = text
                yield text
        if answer.result() != shown:
            yield answer.result()

    def caption_lengths(self, captions: Sequence[str], longest: int | None = None) -> list[int]:
        return [len(row) for row in self._caption_rows(captions, longest or self.max_txt_len)]

    def manifest(self) -> dict[str, Any]:
        return super().manifest() | {
            **self.language_model_facts(),
            "prompt_template": self.prompt_template,
            "end_sym": self.end_sym,
            "max_txt_len": self.max_txt_len,
        }

    def _inputs(self, samples: Any) -> tuple[Sequence[Sequence[int]], Tensor | None]:
        """Ids of what comes before each report of a batch, and its images (B, Q, D), if there are any."""
        raise NotImplementedError(f"{type(self).__name__} has to say what comes before a report.")

    def _embed_samples(self, samples: Any) -> tuple[Tensor, Tensor]:
        """A batch as the language model reads it before it writes: embeddings (B, T, D) and mask (B, T)."""
        return self._embed_rows(*self._inputs(samples), "left")

    def forward(self, samples: Any) -> dict[str, Tensor]:
        """`lm_loss` of the reports, ``caption``, each behind its prompt.

        Also ``num_positions`` of all rows, and how many of these are ``num_padded``, both on the CPU. What
        else is in a batch, the classes of the models say; ``image_id`` names the reports in messages.
        """
        rows, labels, images = self._rows(samples)
        # Nothing comes before the first id of a row, so that it is not learnt even without a prompt.
        labels = [[IGNORE_INDEX, *row[1:]] for row in labels]
        apart: dict[str, Tensor] = {}
        if self.config.packing:
            shared = share_rows([len(row) for row in rows], self.packed_length)
            apart = separate([[len(rows[n]) for n in row] for row in shared], self.device)
            rows, labels = ([[i for n in row for i in ids[n]] for row in shared] for ids in (rows, labels))
            images = None if images is None else images[[n for row in shared for n in row]]
        embeds, mask = self._embed_rows(rows, images, "right")
        targets, _ = pad_rows(labels, IGNORE_INDEX)
        padded = targets.numel() - sum(map(len, rows))
        found = lm_loss(self.llama_model, embeds, apart.pop("attention_mask", mask), targets, **apart)
        return found | {"num_positions": torch.tensor(targets.numel()), "num_padded": torch.tensor(padded)}

    def _rows(self, samples: Any) -> tuple[list[list[int]], list[list[int]], Tensor | None]:
        """Return the ids of each sample, those that are learnt (for others `IGNORE_INDEX`), and the images.

        Raises ConfigError if they do not fit into the language model, DataError if there is no text.
        """
        prompts, images = self._inputs(samples)
        check_positions(self.llama_model, max(map(len, prompts)), self.max_txt_len, "model.max_txt_len")
        captions = self._caption_rows(samples["caption"], self.max_txt_len)
        if not any(captions):
            source = samples.get("image_id", "unknown reports")
            raise DataError(f"no text to learn from in the batch of {source}")
        pairs = list(zip(prompts, captions, strict=True))
        rows = [[*prompt, *caption] for prompt, caption in pairs]
        return rows, [[IGNORE_INDEX] * len(prompt) + caption for prompt, caption in pairs], images

    def _caption_rows(self, captions: Sequence[str], longest: int) -> list[list[int]]:
        texts = [self.answer_start + caption for caption in captions]
        return caption_rows(self.llama_tokenizer, texts, self.end_sym, longest)

    def _embed_rows(
        self, rows: Sequence[Sequence[int]], images: Tensor | Sequence[Tensor] | None, side: str
    ) -> tuple[Tensor, Tensor]:
        """Rows of ids -> embeddings (B, T, D) and attention mask (B, T).

        Args:
            images: (Q, D) each, which fill the `IMAGE_SLOT`s in their order.
            side: where shorter rows are padded.
        """
        ids, mask = (t.to(self.device) for t in pad_rows(rows, self.llama_tokenizer.pad_token_id, side))
        embeds = embedding_table(self.llama_model)(ids.clamp(min=0))
        if images is None:
            return embeds, mask
        filling = torch.cat([image.reshape(-1, embeds.shape[-1]) for image in images]).to(embeds.dtype)
        slots = sum(row.count(IMAGE_SLOT) for row in rows)
        if slots != len(filling):
            raise ValueError(
                f"the prompts have room for {slots / self.tokens_per_image:g} images "
                f"({IMAGE_PLACEHOLDER}), but {len(filling) / self.tokens_per_image:g} were given"
            )
        return embeds.masked_scatter((ids == IMAGE_SLOT).unsqueeze(-1), filling), mask

    def _logits(self, inputs_embeds: Tensor, attention_mask: Tensor, ids: Tensor) -> Tensor:
        """The logits (B, n, V) of each of the ids (B, n) behind a prompt (B, T, D)."""
        written = embedding_table(self.llama_model)(ids).to(inputs_embeds.dtype)
        embeds = torch.cat([inputs_embeds, written], dim=1)[:, :-1]
        mask = torch.cat([attention_mask, attention_mask.new_ones(ids.shape)], dim=1)[:, :-1]
        logits: Tensor = self.llama_model(
            inputs_embeds=embeds.to(self.llama_model.dtype),
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=torch.arange(inputs_embeds.shape[1] - 1, embeds.shape[1], device=ids.device),
        ).logits
        return logits
