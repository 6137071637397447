"""MiniGPT-4 as XrayGPT uses it: EVA-ViT -> Q-Former -> linear projection -> language model.

Shapes: B images, Q query tokens, D width of the language model, T positions. The recipe trains the
projection alone (3 M parameters at full size); the Q-Former and the ViT may be trained too, the language
model never is.

Paper: "MiniGPT-4" (Zhu et al., 2023); "XrayGPT" (Thawkar et al., 2023).
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from xraygpt.common.checkpoint import save_checkpoint
from xraygpt.common.errors import ConfigError, DataError, MissingFileError
from xraygpt.common.paths import PACKAGE_PREFIX, is_remote, require_file
from xraygpt.common.registry import registry
from xraygpt.models.base_model import COMPUTED_BUFFERS, freeze, is_frozen
from xraygpt.models.blip2 import Blip2Base, Blip2Config
from xraygpt.models.decoding import lm_loss, write, write_stream
from xraygpt.models.generation import GenerationConfig
from xraygpt.models.key_translation import QFORMER_PARTS, TEXT_HALF
from xraygpt.models.llm import check_vocabulary, embedding_table, load_llm, load_tokenizer, require_llm
from xraygpt.models.prompts import (
    IMAGE_PLACEHOLDER,
    IMAGE_SLOT,
    caption_labels,
    caption_rows,
    pad_rows,
    prompt_row,
    read_prompts,
)

logger = logging.getLogger(__name__)

_BLIP2 = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2"
EVA_VIT_G_URL = f"{_BLIP2}/eva_vit_g.pth"
BLIP2_QFORMER_URL = f"{_BLIP2}/blip2_pretrained_flant5xxl.pth"


@dataclass
class MiniGPT4Config(Blip2Config):
    """Sizes, pretrained files and prompts of a MiniGPT4.

    A pretrained file is a local path, ``package:…``, a web address or ``hf://owner/repository/file``; null
    means that the part stays as it was initialised, at random, which is said in the log.
    """

    arch: str = "mini_gpt4"
    """Registered name of the model."""
    model_type: str | None = None
    """Which default YAML of the model this configuration starts from."""
    vit_ckpt: str | None = "weights/eva_vit_g.pth"
    """Weights of the vision encoder (EVA-CLIP ViT-g at full size)."""
    q_former_model: str | None = "weights/blip2_pretrained_flant5xxl.pth"
    """Weights of the Q-Former: keys ``Qformer.*``, ``query_tokens`` and ``ln_vision.*``."""
    llama_model: str = "weights/xraygpt_llm"
    """Hugging Face folder of the language model."""
    llm_precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the frozen language model; auto: fp32 without a GPU, else bf16 or fp16."""
    ckpt: str | None = None
    """Checkpoint with the trained parts, the projection above all; null: the projection starts at random."""
    vit_precision: str = "fp16"
    """Number format of a frozen vision encoder's weights: fp16 or fp32; without a GPU always fp32."""
    freeze_qformer: bool = True
    """Do not train the Q-Former and its query tokens. `freeze_vit` freezes the norm behind the ViT too."""
    prompt_path: str = ""
    """File with one prompt per line, each with ``<ImageHere>``; empty: no text around the image."""
    prompt_template: str = ""
    """What a prompt is put into, e.g. ``###Patient: {} ###Doctor: ``; empty: used as it is."""
    prompt: str = ""
    """One prompt, instead of a file of them."""
    max_txt_len: int = 32
    """Most tokens of a report; a longer one is cut and loses its end symbol."""
    end_sym: str = "\n"
    """What closes a report, and ends generation."""
    qformer_cache: bool = False
    """Keep the Q-Former's output of every image, by image id: only for frozen, unaugmented training."""
    low_resource: bool = False
    """The reference's 8-bit language model; not supported."""
    device_8bit: int = 0
    """The reference's GPU for it; accepted and without effect."""

    def __post_init__(self) -> None:
        if self.vit_precision == "fp16" and not self.freeze_vit:
            # The default is fp16 as in the reference, whose ViT is trained in fp32 when it is not frozen.
            self.vit_precision = "fp32"
        super().__post_init__()
        if self.low_resource:
            raise ValueError(
                "low_resource (an 8-bit language model) is not supported; use llm_precision: bf16"
            )
        if self.prompt_template and self.prompt_template.count("{}") != 1:
            raise ValueError("prompt_template must hold {} exactly once")
        if self.prompt and self.prompt.count(IMAGE_PLACEHOLDER) != 1:
            raise ValueError(f"prompt must hold {IMAGE_PLACEHOLDER} exactly once")
        if self.prompt and self.prompt_path:
            raise ValueError("prompt and prompt_path exclude each other")
        if self.max_txt_len < 1:
            raise ValueError("max_txt_len must be at least 1")
        if self.qformer_cache and not (self.freeze_vit and self.freeze_qformer):
            raise ValueError("qformer_cache needs freeze_vit and freeze_qformer")


@registry.register_model("mini_gpt4")
class MiniGPT4(Blip2Base):
    """Image -> report.

    Args:
        config: sizes and what is trained.
        llm: the language model, built and loaded by the caller; it is frozen here.
        tokenizer: its tokenizer, with a padding token.
    """

    config_class: ClassVar[type] = MiniGPT4Config
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = {
        "pretrain_vicuna": "configs/models/minigpt4_vicuna.yaml",
        "tiny": "configs/models/minigpt4_tiny.yaml",
    }
    IGNORED_KEYS: ClassVar[tuple[str, ...]] = (*COMPUTED_BUFFERS, *TEXT_HALF)

    def __init__(
        self, config: MiniGPT4Config, *, llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        super().__init__()
        self.config = config
        self.max_txt_len, self.end_sym = config.max_txt_len, config.end_sym
        self.prompt_template = config.prompt_template
        self.prompt_list = _prompt_list(config)

        self.init_parts(config, text=False)
        self.llama_model, self.llama_tokenizer = llm, tokenizer
        check_vocabulary(llm, tokenizer)
        self.llama_proj = nn.Linear(config.qformer.hidden_size, llm.config.hidden_size)

        freeze(self.llama_model)
        if config.freeze_vit:
            freeze(self.ln_vision)
        if config.freeze_qformer:
            freeze(self.Qformer)
            self.query_tokens.requires_grad_(False)
        self._image_cache: dict[str, Tensor] = {}

    @classmethod
    def from_config(cls, cfg: MiniGPT4Config) -> Self:
        """Build the model and load everything that `cfg` names.

        Raises:
            MissingFileError: one or more files are missing; all of them are named.
            CheckpointError: a file cannot be read or does not fit.
        """
        _require_files(cfg)
        if not torch.cuda.is_available():
            cfg = replace(cfg, vit_precision="fp32")
        folder = require_llm(cfg.llama_model, "model.llama_model")
        tokenizer = load_tokenizer(folder)
        model = cls(cfg, llm=load_llm(folder, cfg.llm_precision), tokenizer=tokenizer)
        model.load_pretrained()
        return model

    def load_pretrained(self) -> None:
        """Load the vision encoder, the Q-Former and the trained parts from the files of the configuration."""
        for key, part in (("vit_ckpt", "vision encoder"), ("q_former_model", "Q-Former")):
            if getattr(self.config, key) is None:
                logger.warning("model.%s is null: the %s has random weights", key, part)
        self.load_parts(self.config)
        if self.config.ckpt is None:
            logger.info("model.ckpt is not set: the projection starts at random")
        else:
            self.load_checkpoint(self.config.ckpt, required=("llama_proj",))

    @property
    def max_positions(self) -> int:
        """Most positions the language model was made for."""
        return int(getattr(self.llama_model.config, "max_position_embeddings", 1 << 30))

    def encode_img(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image (B, 3, H, W) -> embeddings for the language model (B, Q, D), and ones (B, Q) int64."""
        inputs_llama = self.llama_proj(self.encode_queries(image))
        return inputs_llama, torch.ones(inputs_llama.shape[:-1], dtype=torch.long, device=image.device)

    def encode_queries(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) -> output of the Q-Former (B, Q, its width), float32.

        No gradient is kept through parts that are frozen.
        """
        patches = self.embed_image(image).float()  # (B, N, V)
        frozen = is_frozen(self.Qformer) and not (patches.requires_grad or self.query_tokens.requires_grad)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return self.run_queries(patches)

    def embed_prompt(
        self, prompts: Sequence[str], img_embeds: Tensor | Sequence[Tensor], side: str = "left"
    ) -> tuple[Tensor, Tensor]:
        """Prompts with their images -> embeddings (B, T, D) and attention mask (B, T); BOS first.

        The one way from text and images to the language model: training, evaluation and chat use it.

        Args:
            prompts: texts with ``<ImageHere>`` for each image; an empty one stands for the image alone.
            img_embeds: (Q, D) for each placeholder, in the order of the prompts: a (B, Q, D) tensor when
                every prompt has one.
            side: where shorter rows are padded; "left" when text is to be written behind them.
        """
        rows = [prompt_row(self.llama_tokenizer, p or IMAGE_PLACEHOLDER, self._slots) for p in prompts]
        return self._embed_rows(rows, img_embeds, side)[:2]

    def prompt_wrap(self, img_embeds: Tensor, atts_img: Tensor, prompt: str) -> tuple[Tensor, Tensor]:
        """Put the text of `prompt` around image embeddings (B, Q, D), without BOS; "" changes nothing.

        Raises:
            ValueError: `prompt` does not hold ``<ImageHere>`` exactly once.
        """
        if not prompt:
            return img_embeds, atts_img
        if prompt.count(IMAGE_PLACEHOLDER) != 1:
            raise ValueError(f"the prompt {prompt!r} must hold {IMAGE_PLACEHOLDER} exactly once")
        row = prompt_row(self.llama_tokenizer, prompt, self._slots, bos=False)
        embeds, mask, _ = self._embed_rows([row] * len(img_embeds), img_embeds, "right")
        return embeds, mask.to(atts_img.dtype)

    def forward(self, samples: Any) -> dict[str, Tensor]:
        """Loss of the captions, given the images and the batch's prompt.

        Args:
            samples: ``image`` (B, 3, H, W); ``caption``, B texts; optionally ``image_id``, and ``prompt``, a
                text in the template or B of them (the first of `prompt_list` when absent).
        """
        prompts = self._prompts(samples)
        rows = [prompt_row(self.llama_tokenizer, p or IMAGE_PLACEHOLDER, self._slots) for p in prompts]
        captions = caption_rows(self.llama_tokenizer, samples["caption"], self.end_sym, self.max_txt_len)
        if not any(captions):
            raise DataError(
                f"no text to learn from in the batch of {samples.get('image_id', 'unknown images')}"
            )
        full = [(*row, *caption) for row, caption in zip(rows, captions, strict=True)]
        embeds, mask, ids = self._embed_rows(full, self._image_embeds(samples), "right")
        return lm_loss(self.llama_model, embeds, mask, caption_labels(ids, mask, [len(row) for row in rows]))

    @torch.no_grad()
    def generate(self, samples: Any, generation: GenerationConfig | None = None) -> list[str]:
        """Write a report for each image; keys of `samples` as in `forward`, captions not needed."""
        embeds, mask = self.embed_prompt(self._prompts(samples), self.encode_img(samples["image"])[0])
        generation = generation or GenerationConfig()
        return write(self.llama_model, self.llama_tokenizer, embeds, mask, generation, self.stop_strings)[0]

    @property
    def stop_strings(self) -> list[str]:
        """Strings that end a report."""
        return [self.end_sym] if self.end_sym else []

    def complete(
        self, inputs_embeds: Tensor, attention_mask: Tensor, *, stops: Sequence[str], **settings: Any
    ) -> tuple[list[str], Tensor]:
        """Continue embedded prompts; `settings` are fields of `GenerationConfig`. Returns texts and ids."""
        generation = GenerationConfig(**settings)
        return write(self.llama_model, self.llama_tokenizer, inputs_embeds, attention_mask, generation, stops)

    def complete_stream(
        self, inputs_embeds: Tensor, attention_mask: Tensor, *, stops: Sequence[str], **settings: Any
    ) -> Iterator[str]:
        """Like `complete` for one row, yielding the growing text."""
        generation = GenerationConfig(**settings)
        return write_stream(
            self.llama_model, self.llama_tokenizer, inputs_embeds, attention_mask, generation, stops
        )

    def get_context_emb(self, conv: Any, img_list: Sequence[Tensor]) -> Tensor:
        """A `Conversation` with its images (1, Q, D) as the language model reads it, (1, T, D)."""
        return self.embed_prompt([conv.get_prompt()], [image[0] for image in img_list])[0]

    def export(self, folder: Path) -> None:
        """Write the trained parts as files that `ckpt`, `q_former_model` and `vit_ckpt` read.

        ``projection.pth`` always; ``qformer.pth`` (with the norm behind the ViT) and ``vit.pth`` if trained.
        """
        state = self.state_dict()
        save_checkpoint(
            folder / "projection.pth",
            {"model": {k: v for k, v in state.items() if k.startswith("llama_proj.")}},
        )
        if not is_frozen(self.Qformer):
            qformer = {k: v for k, v in state.items() if k.startswith(QFORMER_PARTS)}
            save_checkpoint(folder / "qformer.pth", {"model": qformer})
        if not is_frozen(self.visual_encoder):
            save_checkpoint(folder / "vit.pth", {"model": self.visual_encoder.state_dict()})

    def manifest(self) -> dict[str, Any]:
        return super().manifest() | {
            "llama_model": Path(self.config.llama_model).name,
            "llm_hidden_size": int(self.llama_model.config.hidden_size),
            "vocab_size": int(self.llama_model.config.vocab_size),
            "num_query_token": self._slots,
            "image_size": self.config.vision_config().img_size,
            "prompt_template": self.prompt_template,
            "end_sym": self.end_sym,
            "max_txt_len": self.max_txt_len,
        }

    @property
    def _slots(self) -> int:
        return self.config.num_query_token

    def _prompts(self, samples: Any) -> list[str]:
        prompt = samples.get("prompt", self.prompt_list[0] if self.prompt_list else "")
        return [prompt] * len(samples["image"]) if isinstance(prompt, str) else list(prompt)

    def _embed_rows(
        self, rows: Sequence[Sequence[int]], img_embeds: Tensor | Sequence[Tensor], side: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of ids -> embeddings (B, T, D), mask (B, T), ids (B, T); images fill the `IMAGE_SLOT`s."""
        ids, mask = (t.to(self.device) for t in pad_rows(rows, self.llama_tokenizer.pad_token_id, side))
        slots = ids == IMAGE_SLOT
        embeds = embedding_table(self.llama_model)(ids.clamp(min=0))
        images = torch.cat([image.reshape(-1, embeds.shape[-1]) for image in img_embeds]).to(embeds.dtype)
        if int(slots.sum()) != len(images):
            raise ValueError(
                f"the prompts have room for {int(slots.sum()) / self._slots:g} images "
                f"({IMAGE_PLACEHOLDER}), but {len(images) / self._slots:g} were given"
            )
        return embeds.masked_scatter(slots.unsqueeze(-1), images), mask, ids

    def _image_embeds(self, samples: Any) -> Tensor:
        if not self.config.qformer_cache:
            return self.encode_img(samples["image"])[0]
        embeds: Tensor = self.llama_proj(self._cached_queries(samples["image"], samples["image_id"]))
        return embeds

    def _cached_queries(self, image: Tensor, image_ids: Sequence[str]) -> Tensor:
        new = [row for row, key in enumerate(image_ids) if key not in self._image_cache]
        if new:
            for row, queries in zip(new, self.encode_queries(image[new]), strict=True):
                self._image_cache[image_ids[row]] = queries.cpu()
        return torch.stack([self._image_cache[key] for key in image_ids]).to(image.device)


def _prompt_list(config: MiniGPT4Config) -> list[str]:
    template = config.prompt_template or "{}"
    if config.prompt:
        return [template.format(config.prompt)]
    return read_prompts(config.prompt_path, template) if config.prompt_path else []


def _require_files(cfg: MiniGPT4Config) -> None:
    """Look for all pretrained files first, so that one start tells everything that is missing."""
    wanted = (
        ("model.vit_ckpt", cfg.vit_ckpt, "weights of the vision encoder", EVA_VIT_G_URL),
        ("model.q_former_model", cfg.q_former_model, "weights of the Q-Former", BLIP2_QFORMER_URL),
        (
            "model.ckpt",
            cfg.ckpt,
            "the trained projection",
            "a training of this project, or XrayGPT's authors",
        ),
    )
    problems: list[str] = []
    for key, path, what, source in wanted:
        if path is not None and not is_remote(path):
            if path.startswith(PACKAGE_PREFIX):
                source = "this repository, or `make tiny`"
            try:
                require_file(path, what=what, source=source, where=key)
            except MissingFileError as error:
                problems.append(str(error))
    for check in (lambda: require_llm(cfg.llama_model, "model.llama_model"), lambda: _prompt_list(cfg)):
        try:
            check()
        except (MissingFileError, ConfigError) as error:
            problems.append(str(error))
    if problems:
        raise MissingFileError("\n".join(problems))
