"""BLIP's report writer (Li et al., 2022): a vision encoder, and a BERT whose every layer looks at the image.

Small enough to be trained from nothing, without a language model (LAVIS' `blip_caption`). Its base, a
`BertWriter`, is that of BLIP's pretraining and of BLIP-2's first stage too.

Shapes: B images, N image tokens, V their width, L text tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BatchEncoding, BertTokenizer

from xraygpt.common.errors import ConfigError
from xraygpt.common.generation import GenerationConfig
from xraygpt.common.paths import Check
from xraygpt.common.registry import registry
from xraygpt.datasets.batch import captions_of, images_of
from xraygpt.models import bert_pretrained
from xraygpt.models.base_model import BaseModel
from xraygpt.models.bert import KeyValueCache
from xraygpt.models.bert_lm import IGNORED_LABEL, CausalLM, SearchSettings, bert_reports
from xraygpt.models.generation import GeneratedReport
from xraygpt.models.med import BertLMHeadModel, MedConfig
from xraygpt.models.parts import LayerNorm, VisionEncoder
from xraygpt.models.vision_tower import VisionTower, VisionTowerConfig

PAIR_PARTS = ("vision_proj", "text_proj", "itm_head", "temp")
"""What learning from pairs adds to a model: names of its parts, and of their keys in checkpoints."""


@dataclass
class BertWriterConfig(VisionTowerConfig):
    """Settings of a vision encoder and of the BERT that writes about what it sees.

    Weights are loaded in this order, each over what was there: `bert_model`, `vit_ckpt` (and BLIP-2's
    `q_former_model`), `ckpt`. A file is a local path, ``package:…``, a web address or
    ``hf://owner/repository/file``.
    """

    BERT_FIELD: ClassVar[str]
    """The field that holds the sizes of the BERT."""

    bert_tokenizer: str = "bert-base-uncased"
    """WordPiece vocabulary file, tokenizer folder or hub name."""
    bert_model: str | None = None
    """Weights of a BERT to start from, as BLIP and BLIP-2 do from bert-base-uncased; none: random."""
    max_txt_len: int = 32
    """Longest report of a training in tokens; longer ones are cut."""
    ckpt: str | None = None
    """Checkpoint of a training of this model; none: what the other files leave out starts at random."""

    def __post_init__(self) -> None:
        super().__post_init__()
        longest = getattr(self, self.BERT_FIELD).max_position_embeddings
        if not 2 <= self.max_txt_len <= longest:
            key = f"{self.BERT_FIELD}.max_position_embeddings"
            raise ValueError(f"max_txt_len must lie between 2 and {longest} ({key})")


class BertWriter(VisionTower):
    """Base of the models with a vision encoder and a BERT; subclasses set the attributes below."""

    ln_vision: nn.Module
    tokenizer: BertTokenizer
    max_txt_len: int
    """Most tokens of a report that is read."""
    max_length: int
    """Most tokens of a report that is written, `start_ids` included."""
    start_ids: list[int]
    """What every report begins with: given, not learnt."""

    @property
    def decoder(self) -> CausalLM:
        """The BERT that writes."""
        raise NotImplementedError

    def embed_image(self, image: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, N, V): vision encoder and the norm behind it."""
        return self.ln_vision(self.encode_patches(image))

    def image_inputs(self, image_embeds: Tensor) -> dict[str, Any]:
        """Image tokens (B, N, V) as arguments of the decoder."""
        return {"encoder_hidden_states": image_embeds}

    # ---- loading

    @classmethod
    def part_checks(cls, cfg: Any) -> list[Check]:
        bert = bert_pretrained.bert_check(cfg.bert_model)
        words = partial(bert_pretrained.init_bert_tokenizer, cfg.bert_tokenizer)
        return [*super().part_checks(cfg), bert, words]

    def load_parts(self, cfg: Any) -> None:
        if cfg.bert_model is not None:
            bert_pretrained.load_bert(self.decoder, cfg.bert_model)
            self.copy_from_decoder()
        super().load_parts(cfg)

    def copy_from_decoder(self) -> None:
        """Give a BERT's weights, just loaded into the decoder, to the other parts that start from them."""

    # ---- learning to write

    def tokenize(
        self, texts: Sequence[str], padding: str = "longest", max_length: int | None = None
    ) -> BatchEncoding:
        """`input_ids` and `attention_mask`, (B, L) int64 each, cut at `max_length`, else `max_txt_len`."""
        tokens = self.tokenizer(
            list(texts),
            padding=padding,
            truncation=True,
            max_length=max_length or self.max_txt_len,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        return tokens.to(self.device)

    def cut_captions(self, captions: Sequence[str]) -> int:
        longer = self.max_txt_len + 1
        rows = self.tokenizer(list(captions), truncation=True, max_length=longer).input_ids
        return sum(len(row) == longer for row in rows)

    def caption_lengths(self, captions: Sequence[str]) -> list[int]:
        rows = self.tokenizer(list(captions), truncation=True, max_length=self.max_txt_len).input_ids
        return [len(row) for row in rows]

    def writing_loss(
        self, tokens: BatchEncoding, cache: KeyValueCache | None = None, **image: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss of writing the reports, summed over their tokens, and the number of these.

        Args:
            tokens: of the reports and what they begin with, which does not count; [DEC] takes the place of
                the first.
            cache: of queries that have read the images, or else
            image: `image_inputs`.
        """
        ids = tokens.input_ids.clone()
        ids[:, 0] = self.tokenizer.bos_token_id
        labels = ids.masked_fill(ids == self.tokenizer.pad_token_id, IGNORED_LABEL)
        labels[:, : len(self.start_ids)] = IGNORED_LABEL
        cached = 0 if cache is None else cache.query_length
        output = self.decoder(
            ids,
            attention_mask=F.pad(tokens.attention_mask, (cached, 0), value=1),
            past_key_values=cache,
            labels=labels,
            reduction="none",
            **image,
        )
        return output.loss.sum(), (labels != IGNORED_LABEL).sum()

    # ---- writing

    def write(self, image_embeds: Tensor, generation: GenerationConfig) -> Tensor:
        """Write about images (B, N, V): tokens, `start_ids` included, padded behind the end token."""
        start = torch.tensor(self.start_ids, device=image_embeds.device).expand(len(image_embeds), -1)
        settings = SearchSettings(
            **vars(generation),
            max_length=self.max_length,
            eos_token_id=self.tokenizer.sep_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return self.decoder.generate(start, settings, **self.image_inputs(image_embeds)).sequences

    @torch.no_grad()
    def generate(self, samples: Mapping[str, Any], generation: GenerationConfig) -> list[str]:
        """Write a report for each image of the batch."""
        sequences = self.write(self.embed_image(images_of(samples)), generation)
        return self.tokenizer.batch_decode(sequences[:, len(self.start_ids) :], skip_special_tokens=True)

    @torch.no_grad()
    def generate_detailed(
        self, samples: Mapping[str, Any], generation: GenerationConfig
    ) -> list[GeneratedReport]:
        """The reports of `generate`, each with how it came about."""
        image_embeds = self.embed_image(images_of(samples))
        sequences = self.write(image_embeds, generation)
        start = len(self.start_ids)

        def logits_of(rows: slice) -> Tensor:
            output = self.decoder(sequences[rows, :-1], **self.image_inputs(image_embeds[rows]))
            return output.logits[:, start - 1 :]

        return bert_reports(self.tokenizer, sequences[:, start:], logits_of)


@dataclass
class BlipConfig(BertWriterConfig):
    """Settings that BLIP's models have in common."""

    BERT_FIELD = "med"

    med: MedConfig = field(default_factory=MedConfig)
    """Sizes of the BERT; its vocabulary size is that of the tokenizer, whatever stands here."""
    max_txt_len: int = 40
    """Longest report in tokens, written or read; longer ones are cut."""


class BlipBase(BertWriter):
    """Base of BLIP's models."""

    REQUIRED_PARTS: ClassVar[tuple[str, ...]] = ("text_decoder",)
    CHECKPOINT = ("a trained BLIP", "a training of this project")

    text_decoder: BertLMHeadModel

    def __init__(self, cfg: BlipConfig, encoder: VisionEncoder) -> None:
        super().__init__(cfg, encoder)
        self.ln_vision = LayerNorm(encoder.width)
        self.tokenizer = bert_pretrained.init_bert_tokenizer(cfg.bert_tokenizer)
        self.tokenizer.add_tokens([bert_pretrained.ENCODER_START], special_tokens=True)
        self.max_txt_len = self.max_length = cfg.max_txt_len
        self.start_ids = [self.tokenizer.bos_token_id]
        self.med = replace(cfg.med, encoder_width=encoder.width, vocab_size=len(self.tokenizer))

    @property
    def decoder(self) -> BertLMHeadModel:
        return self.text_decoder


@dataclass
class BlipCaptionConfig(BlipConfig):
    """Settings of `BlipCaption`; its `ckpt` may be one of `BlipPretrain` too."""

    prompt: str = ""
    """Words that every report begins with; they count in max_txt_len, and not in the loss."""


@registry.register_model("blip_caption")
class BlipCaption(BlipBase):
    """Image -> report; keys are ``visual_encoder.*``, ``ln_vision.*`` and ``text_decoder.*``."""

    config_class: ClassVar[type] = BlipCaptionConfig
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = {
        "base": "configs/models/blip_caption_base.yaml",
        "tiny": "configs/models/blip_caption_tiny.yaml",
    }

    IGNORED_KEYS = (
        *BaseModel.IGNORED_KEYS,
        # what `BlipPretrain` has beside the report writer
        *(rf"{part}(\.|$)" for part in ("text_encoder", *PAIR_PARTS)),
    )

    def __init__(self, cfg: BlipCaptionConfig, encoder: VisionEncoder) -> None:
        super().__init__(cfg, encoder)
        self.prompt = cfg.prompt
        self.start_ids += self.tokenizer(cfg.prompt, add_special_tokens=False).input_ids
        if len(self.start_ids) >= cfg.max_txt_len:
            raise ConfigError(f"model.prompt leaves no room for a report in max_txt_len {cfg.max_txt_len}")
        self.text_decoder = BertLMHeadModel(self.med)

    def forward(self, samples: Mapping[str, Any]) -> dict[str, Tensor]:
        """Loss of writing the reports: "image" (B, 3, height, width), "caption" B texts."""
        image_embeds = self.embed_image(images_of(samples))
        tokens = self.tokenize(self._texts(captions_of(samples)))
        total, num_targets = self.writing_loss(tokens, **self.image_inputs(image_embeds))
        return {"loss": total / num_targets, "num_targets": num_targets}

    def cut_captions(self, captions: Sequence[str]) -> int:
        return super().cut_captions(self._texts(captions))

    def _texts(self, reports: Sequence[str]) -> list[str]:
        return [f"{self.prompt} {report}" for report in reports]
